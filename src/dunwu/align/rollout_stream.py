"""Rows for the loop out of rollouts: a row is a prompt with all its answers, and what a method says of their tokens.

Row r belongs to rollout `r // (prompts · epochs)`, which must be the one at hand. Every epoch of a rollout visits its prompts in
an order of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dunwu.align.advantages.annotated import Annotated, loss_weights
from dunwu.align.advantages.registry import ADVANTAGES
from dunwu.align.answers import rows_of
from dunwu.align.experience import Experience
from dunwu.align.stream import row_width
from dunwu.core.policy import PolicySpec
from dunwu.corpus.packing import pack
from dunwu.corpus.stream import Batch, Stream, epoch_key, fingerprint_of, permuted

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Text:
    """Rows of text that are learned beside the answers, `rows` for each update (see `PolicySpec.pretraining`)."""

    stream: Stream
    rows: int


class RolloutStream:
    """A stream of `prompts` rows a rollout and epoch. Its positions are prompts: the loop counts by them.

    `share`: what the answers to a prompt have in common stands in a row once.
    """

    context_length = 1

    def __init__(
        self,
        spec: PolicySpec,
        *,
        prompts: int,
        most_tokens: int,
        seed: int,
        share: bool = True,
        text: Text | None = None,
        fingerprint: str = "",
    ) -> None:
        self.spec, self.prompts, self.most_tokens, self.seed, self.share, self.text = (
            spec, prompts, most_tokens, seed, share, text,
        )  # fmt: skip
        self.rows_per_epoch = prompts
        self.rows_per_rollout = prompts * spec.epochs
        self.fingerprint = fingerprint_of(
            "rollouts", seed, prompts, most_tokens, share, spec.model_dump_json(), fingerprint
        )
        self.annotated: Annotated | None = None
        self.read_positions = 0
        self._at_hand: Experience | None = None

    @property
    def batch_rows(self) -> int:
        """Of an update."""
        return self.prompts // self.spec.minibatches

    @property
    def at_hand(self) -> Experience | None:
        """The rollout whose rows there are."""
        return self._at_hand

    def take(self, experience: Experience | None) -> None:
        """Give rows of this rollout from now on."""
        self._at_hand = experience
        self.annotated = None
        if experience is not None:
            self.annotated = ADVANTAGES[self.spec.name](experience.judged(self.most_tokens), self.spec)
            self._notes = self._annotations(experience, self.annotated)

    def number_of(self, row: int) -> int:
        """The rollout that a row belongs to."""
        return row // self.rows_per_rollout

    def batch(self, first_row: int, rows: int) -> Batch:
        """Prompts `first_row` to `first_row + rows`, packed into rows that are as long as the longest.

        Those whose answers all scored alike count in the mean, and are not read where nothing would be learned from them.
        """
        at_hand = self._at_hand
        assert at_hand is not None
        assert self.number_of(first_row) == at_hand.number == self.number_of(first_row + rows - 1)
        asked = [self._place(row) for row in range(first_row, first_row + rows)]
        members = [place for place in asked if self._teaches[place]] or asked[:1]
        lengths = np.array([self._length(at_hand, place) for place in members], np.int64)
        width = row_width(int(lengths.max()), 0)
        packing, order = pack(lengths, width), np.argsort(-lengths, kind="stable")
        packed = [[members[one] for one in order[packing.places(row)].tolist()] for row in range(packing.rows)]
        batch = rows_of(at_hand.items, packed, width, share=self.share)
        chosen = [place for row in packed for place in row]
        self.read_positions += int(lengths.sum())
        return replace(
            batch,
            learned_tokens=int(sum(self._shares[place].sum() for place in asked)),
            annotations={**batch.annotations, **self._noted(chosen), **self._texts(first_row, rows)},
        )

    def _place(self, row: int) -> int:
        """Of all prompts at hand the one of this row."""
        epoch, index = divmod(row % self.rows_per_rollout, self.prompts)
        key = epoch_key(self.seed, self.number_of(row) * self.spec.epochs + epoch)
        return permuted(index, self.prompts, key) if self.spec.updates > 1 else index

    def _length(self, at_hand: Experience, place: int) -> int:
        item = at_hand.items[place]
        return item.length if self.share else item.length_apart

    def _annotations(self, experience: Experience, annotated: Annotated) -> Mapping[str, Sequence[Floats]]:
        """What is said of each token, prompt by prompt."""
        tokens_A = experience.tokens_A
        weight_N, shares_A = loss_weights(tokens_A, annotated.used_A, self.spec.per, self.most_tokens)
        by_prompt = tokens_A.reshape(-1, experience.count)
        self._shares = shares_A.reshape(-1, experience.count)
        ends = np.cumsum(by_prompt.sum(1))[:-1]
        values = {
            "advantage_N": annotated.advantage_N,
            "weight_N": weight_N,
            "engine_N": experience.engine_N,
            "old_N": experience.policy_N if self.spec.updates > 1 else None,
            "reference_N": experience.reference_N,
            "value_N": experience.value_N,
            "return_N": annotated.return_N,
        }
        notes = {name: np.split(value, ends) for name, value in values.items() if value is not None}
        rewards_alone = not (self.spec.beta or self.spec.entropy or self.spec.wants_values or self.spec.wants_reference)
        self._teaches = [bool(own.any()) or not rewards_alone for own in notes["advantage_N"]]
        return notes

    def _noted(self, places: Sequence[int]) -> dict[str, Tensor]:
        return {
            name: torch.from_numpy(np.concatenate([parts[place] for place in places]).astype(np.float32))
            for name, parts in self._notes.items()
        }

    def _texts(self, first_row: int, rows: int) -> dict[str, Tensor]:
        """Rows of text for these prompts: each prompt of an update has its part of them."""
        if self.text is None:
            return {}
        update, place = divmod(first_row, self.batch_rows)
        first, last = (self.text.rows * at // self.batch_rows for at in (place, place + rows))
        if first == last:
            return {}
        text = self.text.stream.batch(update * self.text.rows + first, last - first)
        document_BT = text.document_BT if text.document_BT is not None else torch.zeros_like(text.ids_BT)
        return {
            "text_ids_BT": text.ids_BT,
            "text_targets_BT": text.targets_BT,
            "text_positions_BT": text.positions_BT,
            "text_document_BT": document_BT,
            "text_share": torch.tensor((last - first) / self.text.rows),
        }
