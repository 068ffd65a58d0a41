"""Prompt tuning (arXiv:2104.08691): embeddings that learn, in front of every text.

What stands in front of all texts sees none of them, so it is read once a pass, by itself, and its keys and values stand in front
of each: the same as if the embeddings stood before each document of a packed row, or each text of a batch, without the columns.
While nothing learns, what was read is kept until a weight moves.

Shapes: `P` columns, `D` model width.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dunwu.core.deltas import PromptSpec
from dunwu.delta.base import Delta
from dunwu.delta.exchange import Exchange
from dunwu.delta.fronts import Columns, Front, random_words, read_alone
from dunwu.delta.prefix import PROMPT, front_config, prompt_of
from dunwu.model.decoder import Decoder


class Prompt(Front[PromptSpec]):
    """`prompt` `[P, D]`, as blocks read it: where embeddings are scaled, it is what they are after that."""

    def __init__(self, model: Decoder, spec: PromptSpec, *, seed: int) -> None:
        super().__init__(model, spec)
        words_PD = random_words(model, spec.length, seed)[0]
        if spec.start == "random":
            noise = torch.empty(words_PD.shape).normal_(generator=torch.Generator().manual_seed(seed))
            words_PD = noise.to(words_PD.device) * words_PD.std()
        self.prompt = nn.Parameter(words_PD)
        self._known: tuple[object, Columns] | None = None

    def columns(self) -> Columns:
        if torch.is_grad_enabled():
            self._known = None  # a step may follow, and torch's fused ones do not count what they write
            return self._read()
        now = list(self._moves())
        if self._known is None or self._known[0] != now:
            with torch.inference_mode(False), torch.no_grad():
                self._known = now, self._read()
        return self._known[1]

    def _read(self) -> Columns:
        dtype = next(self.model.parameters()).dtype
        return read_alone(self.model, self.prompt[None].to(dtype))

    def _moves(self) -> Iterator[object]:
        """Unequal whenever the prompt would be read otherwise."""
        for change in self.model.changes:
            if isinstance(change, Delta):
                yield id(change), change.active, change.weight
        for tensor in (*self.model.parameters(), *self.model.buffers(), *self._theirs()):
            yield tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version

    def _theirs(self) -> Iterator[Tensor]:
        for change in self.model.changes:
            if isinstance(change, Delta):
                yield from (*change.parameters(), *change.buffers())

    def exchanged(self) -> Exchange:
        values = front_config("PROMPT_TUNING", self.spec.length, self.model, width=self.model.config.hidden_size)
        return Exchange(
            config={**values, "prompt_tuning_init": "RANDOM"}, tensors={PROMPT: self.prompt.detach().contiguous()}
        )


def prompt_from_peft(model: Decoder, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Prompt:
    """A delta from peft's files, not attached yet: of prompt tuning, or of P-tuning, whose encoder is not saved."""
    prompt = prompt_of(tensors)
    delta = Prompt(model, PromptSpec(length=len(prompt)), seed=0)
    delta.load({"prompt": prompt.float()})
    return delta
