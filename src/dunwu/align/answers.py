"""Answers to a prompt as ids, rows of them, and what a model says to each answer.

What the answers to one prompt share, the prompt and where they begin alike, stands in a row once; each answer goes on from
there in a branch of its own, blind to the others. A row is read once, and gives what each answer by itself would give.

Shapes: `B` rows, `T` time, `N` learned tokens of all answers, `A` answers.
"""

# ruff: noqa: N815 (shape suffixes of fields are upper case)

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dunwu.corpus.stream import IGNORED, PADDING_ID, Batch
from dunwu.model.decoder import Decoder
from dunwu.train.logprobs import token_logprobs

Ids = npt.NDArray[np.int32]
CHOSEN, REJECTED, UNRELATED = 0, 1, 2
"""Kinds of answers. An unrelated one answers another prompt: KTO measures on it how far a model went."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What follows a prompt: ids, which of them count, and the answer's kind."""

    ids: Ids
    learned: npt.NDArray[np.bool_]
    kind: int


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt and its answers as ids, of which the first `trunk` are the same in all and stand in a row once."""

    prompt: Ids
    answers: tuple[Answer, ...]
    trunk: int = field(init=False)

    def __post_init__(self) -> None:
        longest = max(self.ends(answer) for answer in self.answers)
        agreed = len(self.prompt) + _agree(self.answers)
        object.__setattr__(self, "trunk", min(agreed, longest - 1))  # the last id of all is only predicted

    @property
    def length(self) -> int:
        """Places in a row, where the trunk is shared: the last id of an answer is only predicted."""
        return self.trunk + sum(max(0, self.ends(answer) - 1 - self.trunk) for answer in self.answers)

    @property
    def length_apart(self) -> int:
        """Places where each answer has a copy of the prompt."""
        return sum(self.ends(answer) - 1 for answer in self.answers)

    def ends(self, answer: Answer) -> int:
        """Ids of the prompt and that answer."""
        return len(self.prompt) + len(answer.ids)


def _agree(answers: Sequence[Answer]) -> int:
    """How many ids all answers begin with."""
    first, *others = answers
    same = len(first.ids)
    for other in others:
        size = min(same, len(other.ids))
        differing = np.flatnonzero(first.ids[:size] != other.ids[:size])
        same = int(differing[0]) if len(differing) else size
    return same


def rows_of(
    items: Sequence[Item],
    rows: Sequence[Sequence[int]],
    width: int,
    *,
    share: bool = True,
    reference: Sequence[npt.NDArray[np.float32]] | None = None,
    by_answer: bool = False,
) -> Batch:
    """Rows of `width` places, each holding the items of those numbers.

    Annotations: `at_N`, where in the flattened rows each learned token is predicted; `target_N`, its id; `answer_N`, whose
    it is; `kind_A` and `tokens_A` of each answer; `reference_A`, its log-probability, where `reference` has those of all
    items. Answers are in the order of rows and items. What a mean loss is taken over are items or, `by_answer`, answers that
    were judged.
    """
    filled = _Rows(len(rows), width)
    for line, members in enumerate(rows):
        filled.begin(line)
        for number in members:
            filled.put(items[number], share=share)
    numbers = [number for members in rows for number in members]
    kinds = np.array([answer.kind for number in numbers for answer in items[number].answers], np.int64)
    annotations = filled.annotations() | {"kind_A": torch.from_numpy(kinds)}
    if reference is not None:
        of_answers = [reference[number] for number in numbers] or [np.zeros(0, np.float32)]
        annotations["reference_A"] = torch.from_numpy(np.concatenate(of_answers))
    return Batch(
        ids_BT=torch.from_numpy(filled.ids_BT),
        targets_BT=torch.full((len(rows), width), IGNORED),
        positions_BT=torch.from_numpy(filled.positions_BT),
        document_BT=torch.from_numpy(filled.document_BT),
        branch_BT=torch.from_numpy(filled.branch_BT) if share else None,
        learned_tokens=int((kinds != UNRELATED).sum()) if by_answer else len(numbers),
        annotations=annotations,
    )


class _Rows:
    """Rows while they are filled. Padding is a document of its own, of which nothing is asked."""

    def __init__(self, rows: int, width: int) -> None:
        self.width = width
        self.ids_BT = np.full((rows, width), PADDING_ID, np.int64)
        self.positions_BT = np.zeros((rows, width), np.int64)
        self.document_BT = np.zeros((rows, width), np.int64)
        self.branch_BT = np.zeros((rows, width), np.int64)
        self.at: list[npt.NDArray[np.int64]] = []
        self.target: list[Ids] = []
        self.tokens: list[int] = []
        self.line = self.column = self.document = 0

    def begin(self, line: int) -> None:
        self.line, self.column, self.document = line, 0, 0

    def put(self, item: Item, *, share: bool) -> None:
        trunk = item.trunk if share else 0
        trunk_at = self._write(np.concatenate((item.prompt, item.answers[0].ids))[:trunk], 0, 0)
        for branch, answer in enumerate(item.answers, 1):
            ids = np.concatenate((item.prompt, answer.ids))
            branch_at = self._write(ids[trunk:-1], trunk, branch if share else 0)
            if not share:
                self._next_document()
            places_t = len(item.prompt) + np.flatnonzero(answer.learned) - 1  # each id is predicted one place before
            at_n = np.where(places_t < trunk, trunk_at + places_t, branch_at + places_t - trunk)
            self.at.append(self.line * self.width + at_n)
            self.target.append(answer.ids[answer.learned])
            self.tokens.append(len(places_t))
        if share:
            self._next_document()

    def _write(self, ids: Ids, first_position: int, branch: int) -> int:
        """Put ids down; returns the column of the first."""
        place = slice(self.column, self.column + len(ids))
        assert place.stop <= self.width, "rows are packed so that their items fit"
        self.ids_BT[self.line, place] = ids
        self.positions_BT[self.line, place] = np.arange(first_position, first_position + len(ids))
        self.branch_BT[self.line, place] = branch
        self.column = place.stop
        return place.start

    def _next_document(self) -> None:
        self.document += 1
        self.document_BT[self.line, self.column :] = self.document

    def annotations(self) -> dict[str, Tensor]:
        tokens_A = np.array(self.tokens, np.int64)
        nothing = [np.zeros(0, np.int64)]
        return {
            "at_N": torch.from_numpy(np.concatenate(self.at or nothing).astype(np.int64)),
            "target_N": torch.from_numpy(np.concatenate(self.target or nothing).astype(np.int64)),
            "answer_N": torch.from_numpy(np.repeat(np.arange(len(tokens_A)), tokens_A)),
            "tokens_A": torch.from_numpy(tokens_A),
        }


@dataclass(frozen=True)
class Side:
    """Answers of one kind: summed log-probabilities (nats), tokens, and log-probabilities of the reference, all `[P]`."""

    logprobs: Tensor
    tokens: Tensor
    reference: Tensor | None

    @property
    def mean_logprobs(self) -> Tensor:
        """Nats a token."""
        return self.logprobs / self.tokens

    @property
    def log_ratios(self) -> Tensor:
        """By how much the model finds an answer likelier than the reference does, nats."""
        assert self.reference is not None, "the stream was made without a reference"
        return self.logprobs - self.reference


@dataclass(frozen=True)
class Answers:
    """What a model says to the answers of a batch, `[A]` each: see `Side`."""

    logprobs_A: Tensor
    tokens_A: Tensor
    kind_A: Tensor
    reference_A: Tensor | None

    def of(self, kind: int) -> Side:
        """Those of one kind, in their order."""
        places = (self.kind_A == kind).nonzero()[:, 0]
        reference = None if self.reference_A is None else self.reference_A[places]
        return Side(self.logprobs_A[places], self.tokens_A[places], reference)


def judge_answers(model: Decoder, batch: Batch) -> Answers:
    """Read the rows, and sum up the log-probabilities of each answer. Only learned tokens meet the model's head."""
    notes = batch.annotations
    hidden_BTD = model(
        ids_BT=batch.ids_BT, positions_BT=batch.positions_BT, document_BT=batch.document_BT, branch_BT=batch.branch_BT
    )
    hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, notes["at_N"])
    logprobs_N = token_logprobs(hidden_ND, model.head_weight, notes["target_N"], softcap=model.config.logits_softcap)
    tokens_A = notes["tokens_A"]
    logprobs_A = logprobs_N.new_zeros(len(tokens_A)).index_add(0, notes["answer_N"], logprobs_N)
    return Answers(
        logprobs_A=logprobs_A, tokens_A=tokens_A, kind_A=notes["kind_A"], reference_A=notes.get("reference_A")
    )
