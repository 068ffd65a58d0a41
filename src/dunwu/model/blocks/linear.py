"""Linear layers that read the same input, as one product where kernels serve."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dunwu.model import kernels
from dunwu.model.blocks.norms import by_hand


def project(x: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """What each layer makes of x. Plain ones in training go through `kernels.linear`; whatever a delta made of them, by itself."""
    if only_products(x, layers):
        return kernels.linear(x, [layer.weight for layer in layers if isinstance(layer, nn.Linear)])
    return tuple(layer(x) for layer in layers)


def only_products(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """Whether these layers, in training, are nothing but products that `kernels` make."""
    return (
        torch.is_grad_enabled()
        and by_hand(x)
        and not torch.is_autocast_enabled("cpu")
        and all(_plain(layer) for layer in layers)
    )


def _plain(layer: nn.Module) -> bool:
    """Whether calling it is nothing but a product: no bias, no subclass, no hook."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return type(layer) is nn.Linear and layer.bias is None and not any(getattr(layer, name) for name in hooks)
