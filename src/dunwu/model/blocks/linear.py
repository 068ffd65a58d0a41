"""Linear layers that read the same input, as one product where kernels serve."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dunwu.model import kernels
from dunwu.model.blocks.norms import by_hand

_OTHER_HOOKS = (
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def project(x: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """What each layer makes of x. In training the products of plain ones are made together; what a delta hooked to them follows."""
    if _together(x, layers):
        products = kernels.linear(x, [layer.weight for layer in layers if isinstance(layer, nn.Linear)])
        return tuple(_changed(layer, x, out) for layer, out in zip(layers, products, strict=True))
    return tuple(layer(x) for layer in layers)


def only_products(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """Whether these layers, in training, are nothing but products that `kernels` make."""
    return _together(x, layers) and not any(layer._forward_hooks for layer in layers)


def _together(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    ready = torch.is_grad_enabled() and by_hand(x) and not torch.is_autocast_enabled("cpu")
    return ready and all(map(_plain, layers))


def _plain(layer: nn.Module) -> bool:
    """Whether calling it is nothing but a product, to which at most a hook adds: no bias, no subclass, no other hooks."""
    return type(layer) is nn.Linear and layer.bias is None and not any(getattr(layer, name) for name in _OTHER_HOOKS)


def _changed(layer: nn.Module, x: Tensor, out: Tensor) -> Tensor:
    """The product after the layer's hooks, called as the layer itself calls them."""
    for hook in tuple(layer._forward_hooks.values()):
        changed = hook(layer, (x,), out)
        out = out if changed is None else changed
    return out
