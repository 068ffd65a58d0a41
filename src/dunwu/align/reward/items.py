"""Judged answers as ids that a reward model reads, and the stream of them.

A score is read at the last token of an answer, which ends the turn, or at the end of each of its steps. Where it is read is
said as elsewhere, by which ids "count" (see `answers.py`): an id is predicted one place before, so the id behind each place
that is read counts, and one more id, never looked at, stands behind the last.

Shapes: `A` answers, `N` places that are read, `P` pairs, `K` heads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from dunwu.align.answers import Answer, Ids, Item, rows_of
from dunwu.align.encode import LEAST_ANSWER, TooLong, encode_preference
from dunwu.align.stream import AnswerStream
from dunwu.core.records import Example, Message, Preference
from dunwu.corpus.conversations import encode_example
from dunwu.corpus.json_rows import BadRow
from dunwu.corpus.pairs import EQUAL
from dunwu.corpus.stream import Batch, fingerprint_of
from dunwu.tokenizer.like import TokenizerLike

UNLIMITED = 1 << 30
_SAMPLE = (Message(role="user", content="Hello."), Message(role="assistant", content="Hello."))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Answers to one prompt, and what was said of them: of a pair by how much the first is better, at least, and whether the
    two are equally good; of each step that it is good (1), bad (0) or not known (NaN)."""

    item: Item
    margin: float = 0.0
    tie: bool = False
    labels: tuple[float, ...] = ()

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each answer."""
        return tuple(len(answer.ids) - 1 for answer in self.item.answers)


def encode_pair(
    tokenizer: TokenizerLike,
    preference: Preference,
    *,
    context_length: int,
    too_long: TooLong = "cut",
    system_prompt: str = "",
) -> Judged:
    """A pair, read at the end of both answers. Raises BadRow where it cannot be used.

    An answer beyond the context loses its end, but for the token that ends the turn.
    """
    whole = encode_preference(tokenizer, preference, context_length=UNLIMITED, system_prompt=system_prompt)
    room = context_length - len(whole.prompt)
    longest = max(len(answer.ids) for answer in whole.answers)
    if room < min(LEAST_ANSWER, longest):
        raise BadRow(
            "has a prompt that is too long",
            f"{len(whole.prompt)} tokens, and the context has {context_length} for it and an answer",
        )
    if longest > room and too_long == "drop":
        raise BadRow(
            "has an answer that is too long",
            f"{len(whole.prompt) + longest} tokens with its prompt, of {context_length}",
        )
    answers = [_read_at_the_end(shortened(answer.ids, room), answer.kind) for answer in whole.answers]
    if len(answers) == 2 and np.array_equal(answers[0].ids, answers[1].ids):
        raise BadRow(EQUAL, f"they are the same within the context of {context_length} tokens")
    return Judged(item=Item(whole.prompt, tuple(answers)), margin=preference.margin or 0.0, tie=preference.tie)


def turn_end(tokenizer: TokenizerLike) -> int:
    """The id with which the chat template ends an answer."""
    tokens = encode_example(tokenizer, Example(messages=_SAMPLE, source=""))
    return int(tokens.ids[tokens.learned][-1])


def shortened(ids: Ids, most: int) -> Ids:
    """At most so many ids, the last one always kept."""
    return ids if len(ids) <= most else np.concatenate((ids[: most - 1], ids[-1:]))


def _read_at_the_end(ids: Ids, kind: int) -> Answer:
    return read_at(ids, [len(ids) - 1], kind)


def read_at(ids: Ids, places: Sequence[int], kind: int) -> Answer:
    """An answer that is read at those places of its ids."""
    counts = np.zeros(len(ids) + 1, np.bool_)
    counts[np.asarray(places) + 1] = True
    return Answer(np.concatenate((ids, ids[-1:])), counts, kind)


class JudgedStream(AnswerStream):
    """Rows of judged answers, with what was said of them as annotations: `margin_P` and `tie_P` of pairs, `label_N` of steps.

    Several heads each learn from a resample of their own, so that they differ: `weight_PK` says how often a head sees a pair,
    drawn from Poisson(1), a pure function of seed, pair and head (the bootstrap of arXiv:1312.5021).
    """

    def __init__(
        self, judged: Sequence[Judged], *, least_width: int, seed: int, share: bool = True, heads: int = 1
    ) -> None:
        super().__init__([one.item for one in judged], least_width=least_width, seed=seed, share=share)
        self.judged = judged
        draws = np.random.Generator(np.random.Philox(key=[seed, 0x4EAD])).poisson(1.0, (len(judged), heads))
        self.weights_PK = draws.astype(np.float32) if heads > 1 else None
        said = [(one.margin, one.tie, one.labels) for one in judged]
        self.fingerprint = fingerprint_of("judged", self.fingerprint, heads, repr(said))

    def batch(self, first_row: int, rows: int) -> Batch:
        """Rows `first_row` to `first_row + rows` of the endless stream."""
        members = [self._row(row) for row in range(first_row, first_row + rows)]
        batch = rows_of(self.items, members, self.context_length, share=self.share)
        numbers = [number for row in members for number in row]
        return with_judgements(batch, [self.judged[number] for number in numbers], self._weights(numbers))

    def _weights(self, numbers: Sequence[int]) -> npt.NDArray[np.float32] | None:
        return None if self.weights_PK is None else self.weights_PK[numbers]


def with_judgements(batch: Batch, judged: Sequence[Judged], weights_PK: npt.NDArray[np.float32] | None = None) -> Batch:
    """The rows with what was said of the answers in them."""
    labels_N = [label for one in judged for label in one.labels]
    annotations = {**batch.annotations}
    if labels_N:
        annotations["label_N"] = torch.tensor(labels_N, dtype=torch.float32)
        known = sum(not math.isnan(label) for label in labels_N)
        return replace(batch, annotations=annotations, learned_tokens=known)
    annotations["margin_P"] = torch.tensor([one.margin for one in judged], dtype=torch.float32)
    annotations["tie_P"] = torch.tensor([one.tie for one in judged], dtype=torch.bool)
    if weights_PK is not None:
        annotations["weight_PK"] = torch.from_numpy(weights_PK)
    return replace(batch, annotations=annotations)
