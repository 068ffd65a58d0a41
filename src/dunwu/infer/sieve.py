"""The likeliest token of a large head of floats without reading all of it at each step.

The head is kept a second time in bytes, a quarter of its size, with how far each logit can be from what these give. At a step the
bytes are read, and the few logits that may be the greatest are computed from the floats as ever: the same token, bit for bit.

Shapes: `D` model width, `V` vocabulary.
"""

import torch
from torch import Tensor

from dunwu.model.decoder import Decoder
from dunwu.model.native.library import FLOAT32, INT8, ROWS_SIEVED, Library, Matrix, Sieve
from dunwu.model.native.pages import on_large_pages

LEAST_BYTES = 16 << 20
"""Of a head. A smaller one stays in the caches of a processor, where it is read as fast as it is multiplied."""
STEPS = 8
"""With the same weights before a sieve is made, which takes as long as some four save."""
LOOKED_AT, COARSE = 8, 0.02
"""Rows after which a sieve is judged, and the share of the outputs that it may let through."""


class HeadSieve:
    """Of `model`'s head. Weights that change in place are noticed where torch counts it, and otherwise (through `.data`), by a
    number of each row, when told to `look_again`."""

    def __init__(self, kernels: Library, model: Decoder) -> None:
        self._kernels, self._model = kernels, model
        self._sieve: Sieve | None = None
        self._room: tuple[Tensor, ...] = ()
        self._seen: tuple[int, int, torch.Size] | None = None
        self._sample_V = torch.empty(0)
        self._steps = 0
        self._looks = True

    def look_again(self) -> None:
        """The weights may have been changed behind torch's back since."""
        self._looks = True

    def of(self, head: Matrix, steps: int = 1) -> tuple[Sieve, Tensor] | None:
        """For so many steps of `Library.likeliest`; None where it is no gain, or none was made yet."""
        if head.kind != FLOAT32 or head.bias or 4 * head.outputs * head.inputs < LEAST_BYTES:
            return None
        weight_VD = self._model.head_weight.detach()
        if weight_VD.is_inference() or not self._kernels.can_sieve(head.inputs):
            return None
        if self._changed(weight_VD):
            self._sieve, self._steps = None, 0
        self._steps += steps
        if self._steps <= STEPS or self._is_coarse():
            return None
        if self._sieve is None or self._sieve.bytes.outputs < head.outputs:
            self._sieve = self._made(head)
        return self._sieve, self._room[-1]

    def _is_coarse(self) -> bool:
        """Whether so much goes through that reading all is as fast."""
        sieve = self._sieve
        if sieve is None or sieve.rows < LOOKED_AT:
            return False
        return sieve.computed > COARSE * sieve.rows * sieve.bytes.outputs

    def _changed(self, weight_VD: Tensor) -> bool:
        seen = weight_VD.data_ptr(), weight_VD._version, weight_VD.shape
        if seen == self._seen and not self._looks:
            return False
        # A number of every row, and of the columns in turn: what changes a row or a column as a whole shows.
        rows_V = torch.arange(len(weight_VD))
        sample_V = weight_VD[rows_V, rows_V % weight_VD.shape[1]]
        same = seen == self._seen and torch.equal(sample_V, self._sample_V)
        self._seen, self._sample_V, self._looks = seen, sample_V, False
        return not same

    def _made(self, head: Matrix) -> Sieve:
        """Of as many outputs as this head has; room that was made for as many is used again."""
        if not self._room or self._room[0].shape != (head.outputs, head.inputs):
            numbers = (torch.empty(head.outputs) for _ in range(3))
            most = torch.empty(ROWS_SIEVED, head.outputs)
            self._room = (on_large_pages((head.outputs, head.inputs), torch.int8), *numbers, most)
        whole, scales, slack, size, _ = (tensor.data_ptr() for tensor in self._room)
        rounded = Matrix(
            weights=whole, scales=scales, outputs=head.outputs, inputs=head.inputs, group=head.inputs, kind=INT8
        )
        sieve = Sieve(bytes=rounded, slack=slack, size=size)
        self._kernels.make_sieve(head, sieve)
        return sieve
