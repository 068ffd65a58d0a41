"""Several adapters over one model: each row of a pass with its own request's, or none.

The model's modules stay as they are; hooks on them add what an adapter adds (arXiv:2106.09685 section 4.1), one pair of small
products for each adapter in the pass, over its rows together (as arXiv:2311.03285 serves many). Adapters of other kinds say
themselves what becomes of their rows.

Shapes: `N` tokens of a pass, `r` rank.
"""

import contextlib
import itertools
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dunwu.core.errors import ModelError


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What is added to a linear layer: `scale · B A x`, with `a` `[r, in]` and `b` `[out, r]`."""

    a: Tensor
    b: Tensor
    scale: float = 1.0


RowChange = Callable[[Tensor, Tensor], Tensor]
"""What a module read, `[1, n, in]`, and what it made of that, `[1, n, out]` → what it shall have made."""
Change = LowRank | RowChange


class Adapters:
    """The adapters of one model, by name."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._modules = dict(model.named_modules())
        self._named: dict[str, dict[str, Change]] = {}
        self._salts: dict[str, Hashable] = {}
        self._numbers = itertools.count()
        self._hooks: dict[str, RemovableHandle] = {}
        self._rows: dict[str, Tensor] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._named

    @property
    def names(self) -> list[str]:
        return list(self._named)

    def salt(self, name: str | None) -> Hashable:
        """Unequal for whatever gives a text other keys and values: a name that is given anew is another adapter."""
        return None if name is None else self._salts[name]

    def add(self, name: str, weights: Mapping[str, Change]) -> None:
        """Keep an adapter: the name of a module, as in `named_modules`, → what it adds there, or makes of the module's rows.

        Raises ModelError for a name that is taken, for a module that the model does not have, and for shapes that do not fit it.
        """
        if name in self._named:
            raise ModelError(f"there is an adapter {name!r} already; remove it first, or give another name")
        for layer, one in weights.items():
            self._require_fitting(name, layer, one)
        like = next(self._model.parameters())
        dtype = like.dtype if like.is_floating_point() else torch.float32
        self._named[name] = {
            layer: LowRank(one.a.detach().to(like.device, dtype), one.b.detach().to(like.device, dtype), one.scale)
            if isinstance(one, LowRank)
            else one
            for layer, one in weights.items()
        }
        self._salts[name] = name, next(self._numbers)
        for layer in weights:
            if layer not in self._hooks:
                self._hooks[layer] = self._modules[layer].register_forward_hook(self._hook(layer))

    def remove(self, name: str) -> None:
        """Forget an adapter; hooks that serve no other go with it. Raises ModelError where there is none of this name."""
        if name not in self._named:
            raise ModelError(f"there is no adapter {name!r}; there are: {', '.join(self._named) or 'none'}")
        del self._named[name], self._salts[name]
        for layer in [layer for layer in self._hooks if not any(layer in one for one in self._named.values())]:
            self._hooks.pop(layer).remove()

    @contextlib.contextmanager
    def over(self, parts: Sequence[tuple[str | None, int]]) -> Generator[None]:
        """Within, each row of the model has the adapter of its part: (adapter, tokens) for each part of the pass, in order."""
        rows: dict[str, list[int]] = {}
        first = 0
        for name, count in parts:
            if name is not None:
                rows.setdefault(name, []).extend(range(first, first + count))
            first += count
        device = next(self._model.parameters()).device
        self._rows = {name: torch.tensor(own, device=device) for name, own in rows.items()}
        try:
            yield
        finally:
            self._rows = {}

    def _hook(self, layer: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            for name, rows_n in self._rows.items():
                one = self._named[name].get(layer)
                if one is None:
                    continue
                x = inputs[0].index_select(-2, rows_n)
                if not isinstance(one, LowRank):
                    changed = one(x, output.index_select(-2, rows_n))
                    output.index_copy_(-2, rows_n, changed.to(output.dtype))
                else:
                    output.index_add_(-2, rows_n, (x @ one.a.mT @ one.b.mT).to(output.dtype), alpha=one.scale)

        return add

    def _require_fitting(self, name: str, layer: str, one: Change) -> None:
        module = self._modules.get(layer)
        if not isinstance(one, LowRank):
            if module is None or not layer.startswith("model.layers."):
                raise ModelError(
                    f"adapter {name!r} changes {layer!r}, which is no module of the model's blocks; it is another model's"
                )
            return
        inputs, outputs = getattr(module, "in_features", None), getattr(module, "out_features", None)
        if module is None or inputs is None or not layer.startswith("model.layers."):
            raise ModelError(
                f"adapter {name!r} changes {layer!r}, which is no linear layer within the model's blocks; give names such as "
                "model.layers.0.self_attn.q_proj"
            )
        if one.a.ndim != 2 or one.b.ndim != 2 or one.a.shape[0] != one.b.shape[1]:
            raise ModelError(
                f"adapter {name!r}: {layer} has a {list(one.a.shape)} and b {list(one.b.shape)}; give [r, in], [out, r]"
            )
        if (one.a.shape[1], one.b.shape[0]) != (inputs, outputs):
            raise ModelError(
                f"adapter {name!r}: {layer} takes {inputs} and gives {outputs} channels, and the adapter {one.a.shape[1]} and "
                f"{one.b.shape[0]}; it is another model's"
            )
