"""Attention weights, seen from outside: hooks on a finished model, so that a pass that nobody watches costs nothing more.

Shapes: `B` batch, `T` time, `S` source time, `H` query heads, `K` key/value heads, `C` head channels.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn

from dunwu.model.blocks.reading import Reading
from dunwu.model.decoder import Block, Decoder

See = Callable[[int, Tensor], None]
"""Takes a layer's number and its weights `[B, H, T, S]`; with sinks a query's do not add up to 1."""


class _Watched(Reading):
    """A reading whose scores are made whole, and shown."""

    layer: int
    see: See

    def attend_under(
        self,
        mask: Tensor | None,
        q_BHTC: Tensor,
        k_BKSC: Tensor,
        v_BKSC: Tensor,
        sinks_H: Tensor | None = None,
        *,
        causal: bool = False,
    ) -> Tensor:
        return self._attend_plainly(q_BHTC, k_BKSC, v_BKSC, mask, q_BHTC.shape[1] // k_BKSC.shape[1], sinks_H)

    def weights(
        self, q_BHTC: Tensor, k_BKSC: Tensor, mask: Tensor | None, groups: int, sinks_H: Tensor | None
    ) -> Tensor:
        weights_BHTS = super().weights(q_BHTC, k_BKSC, mask, groups, sinks_H)
        self.see(self.layer, weights_BHTS)
        return weights_BHTS


@contextmanager
def attention_weights(model: Decoder, see: See) -> Generator[None]:
    """While this lasts, each layer of a pass without a cache shows its attention weights to `see`; the output stays as it is,
    up to rounding. Packed rows and windows are seen as the layer sees them."""

    def hook(layer: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def watch(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            x_BTD, reading, number = given
            if reading.cache is not None:
                raise ValueError("attention weights are seen in passes without a cache")
            watched = object.__new__(_Watched)
            watched.__dict__ = {**reading.__dict__, "layer": layer, "see": see, "_apart": False}
            return x_BTD, watched, number

        return watch

    layers = [cast("Block", layer) for layer in model.model.layers]
    handles = [layer.self_attn.register_forward_pre_hook(hook(number)) for number, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
