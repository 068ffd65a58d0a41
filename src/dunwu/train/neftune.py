"""Noise on the embeddings while conversations are learned (NEFTune, arXiv:2310.05914), around any objective.

Shapes: `B` batch, `T` time, `D` model width.
"""

import contextlib
from collections.abc import Generator, Mapping

import torch
from torch import Tensor, nn

from dunwu.corpus.stream import Batch
from dunwu.model.decoder import Decoder
from dunwu.train.loop import Objective


@contextlib.contextmanager
def neftune(model: Decoder, objective: Objective, *, alpha: float) -> Generator[Objective]:
    """`objective` with uniform noise in ±alpha / sqrt(L · D) added to what `model`'s embedding gives; L is the length of the
    document that a token belongs to, also in a row that holds several. With `alpha` 0 it is `objective` itself.

    The noise is drawn from torch's own generator, whose state checkpoints keep: a resumed run draws the same.
    """
    if not alpha:
        yield objective
        return
    noise = _Noise(objective, alpha)
    # Before any other hook, which may lengthen the rows; and for as long as the model may be compiled with it.
    handle = model.model.embed_tokens.register_forward_hook(noise.hook, prepend=True)
    try:
        yield noise
    finally:
        handle.remove()


class _Noise:
    def __init__(self, objective: Objective, alpha: float) -> None:
        self._objective, self._alpha = objective, alpha
        self._lengths_BT: Tensor | None = None

    def __call__(self, model: Decoder, batch: Batch, *, total_learned: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        self._lengths_BT = document_lengths(batch)
        try:
            return self._objective(model, batch, total_learned=total_learned)
        finally:
            self._lengths_BT = None

    def hook(self, module: nn.Module, inputs: tuple[Tensor, ...], embedded_BTD: Tensor) -> Tensor:
        if self._lengths_BT is None:
            return embedded_BTD
        bound_BT = self._alpha / (self._lengths_BT.float() * embedded_BTD.shape[-1]).sqrt()
        noise_BTD = torch.rand_like(embedded_BTD) * 2 - 1
        return embedded_BTD + noise_BTD * bound_BT[..., None].to(embedded_BTD.dtype)


def document_lengths(batch: Batch) -> Tensor:
    """How many tokens the document of each token has within its row, [B, T]."""
    if batch.document_BT is None:
        return torch.full_like(batch.ids_BT, batch.ids_BT.shape[1])
    counts = torch.zeros_like(batch.document_BT).scatter_add_(1, batch.document_BT, torch.ones_like(batch.document_BT))
    return counts.gather(1, batch.document_BT)
