"""From the hidden states of a pass to tokens: each text chooses one, and one more for each guess that it confirms.

A guess is right when it is the very token that the text chooses in its place, with its own filters, penalties, grammar and
number. So what a request gets does not depend on what was guessed, nor on how much: the same tokens as without guesses, and
with them their distribution. (For a guess that is certain this accepts exactly as often as the rule of arXiv:2211.17192; for
tokens drawn by a draft model, which draws with the number that the text will choose with, see arXiv:2408.07978 on what such a
coupling costs.)

Shapes: `R` rows that choose, `D` model width, `V` vocabulary.
"""

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dunwu.core.errors import DunwuError
from dunwu.infer.constrain import Matcher
from dunwu.infer.events import Event
from dunwu.infer.runner import Runner
from dunwu.infer.sampling import Choice, History, choose, draw
from dunwu.infer.scheduler import Work
from dunwu.infer.sequence import Sequence as Ids
from dunwu.infer.texts import Text, Texts
from dunwu.tokenizer.like import TokenizerLike

FAULTS = (DunwuError, RuntimeError, ValueError)
"""What a grammar or a choice may raise and only the text that raised it should suffer."""


class Head:
    """Logits of the tokenizer's ids; those that stand for nothing are never chosen."""

    def __init__(self, runner: Runner, tokenizer: TokenizerLike) -> None:
        self._runner, self._size = runner, tokenizer.vocab_size
        size = min(self._size, runner.model.config.vocab_size)
        unused = [number for number in tokenizer.unused_ids if number < size]
        self._unused = torch.tensor(unused, dtype=torch.int64, device=runner.cache.reach.device)
        self._barred = torch.zeros(size, dtype=torch.uint8).index_fill_(0, self._unused.cpu(), 1) if unused else None

    def __call__(self, hidden_RD: Tensor) -> Tensor:
        """`[R, V]`."""
        logits_RV = self._runner.logits(hidden_RD)[:, : self._size]
        return logits_RV.index_fill(1, self._unused, -math.inf) if self._unused.numel() else logits_RV

    def likeliest(self, hidden_RD: Tensor) -> list[int] | None:
        """The likeliest id of each row, without its logits; None where these are needed."""
        size = min(self._size, self._runner.model.config.vocab_size)
        found = self._runner.likeliest(hidden_RD, size, self._barred)
        return None if found is None or -1 in found else found

    def write(self, work: Sequence[Work], count: int, stops: Iterable[int]) -> tuple[list[list[int]], Tensor] | None:
        """What `Runner.write` says of these ids."""
        size = min(self._size, self._runner.model.config.vocab_size)
        return self._runner.write(work, count, size, self._barred, stops)


@dataclass(frozen=True, slots=True)
class Turn:
    """A text that chooses: its last token is row `row` of the pass, and `guesses` are the rows after it."""

    text: Text
    row: int
    guesses: tuple[int, ...] = ()

    @property
    def rows(self) -> range:
        return range(self.row, self.row + 1 + len(self.guesses))


def choose_after(
    places: Sequence[tuple[Ids, tuple[int, ...]]], logits_RV: Tensor, masks: Mapping[int, Tensor]
) -> Choice:
    """The next token after each sequence and the guesses behind it, taken for granted.

    A draw depends on seed, completion and place alone, so that reading anew repeats it.
    """
    params = [sequence.request.params for sequence, _ in places]
    histories = [History(sequence.request.prompt_ids, [*sequence.written, *ahead]) for sequence, ahead in places]
    draws = [
        0.0 if one.greedy else draw(one.seed or 0, len(past.completion), branch=sequence.index)
        for (sequence, _), one, past in zip(places, params, histories, strict=True)
    ]
    return choose(logits_RV, params, histories, draws, masks=masks)


def write(
    turns: Iterable[Turn], hidden_ND: Tensor, head: Head, texts: Texts, events: list[Event]
) -> list[tuple[Turn, int]]:
    """Choose for all at once; a text whose grammar or choice fails ends alone. Gives the turns of those that go on, each with
    how many guesses were right."""
    masked: list[tuple[Turn, list[Tensor]]] = []
    for turn in turns:
        try:
            masked.append((turn, [] if turn.text.matcher is None else masks_along(turn.text.matcher, turn.guesses)))
        except FAULTS as error:
            texts.finish(turn.text, "error", events, error)
    if not masked:
        return []
    rows = [row for turn, _ in masked for row in turn.rows]
    hidden_RD = hidden_ND if rows == [*range(len(hidden_ND))] else hidden_ND[rows]
    logits_RV, chosen = None, None
    if all(not masks and turn.text.group.params.plain for turn, masks in masked):
        chosen = _certain(head.likeliest(hidden_RD))
    if chosen is None:
        logits_RV = head(hidden_RD)
        with contextlib.suppress(*FAULTS):  # one row may spoil the choice of all: then each chooses for itself
            chosen = _choose(masked, logits_RV)
    first, going = 0, []
    for turn, masks in masked:
        end = first + len(turn.rows)
        try:
            if chosen is None:
                assert logits_RV is not None
                right = _take(turn, _choose([(turn, masks)], logits_RV[first:end]), 0, texts, events)
            else:
                right = _take(turn, chosen, first, texts, events)
            if right is not None:
                going.append((turn, right))
        except FAULTS as error:
            texts.finish(turn.text, "error", events, error)
        first = end
    return going


def write_along(turns: Sequence[Turn], passes: Sequence[list[int]], texts: Texts, events: list[Event]) -> None:
    """Take what several passes chose, one id a text each; what comes after the end of a text is dropped."""
    going = [*enumerate(turns)]
    for number, ids in enumerate(passes):
        still: list[tuple[int, Turn]] = []
        for row, turn in going:
            if number:
                texts.one_more_was_read(turn.text.sequence)
            try:
                if texts.take(turn.text, ids[row], None, None, events):
                    still.append((row, turn))
            except FAULTS as error:
                texts.finish(turn.text, "error", events, error)
        going = still
    texts.steps += len(passes) - 1


def masks_along(matcher: Matcher, guesses: Sequence[int]) -> list[Tensor]:
    """What the grammar allows now, and after each of the guesses, which it must allow; its state stays."""
    masks = [matcher.mask()]
    fed = 0
    try:
        for number in guesses:
            matcher.accept(number)
            fed += 1
            masks.append(matcher.mask())
    finally:
        if fed:
            matcher.rollback(fed)
    return masks


def _certain(ids: list[int] | None) -> Choice | None:
    """The choice of rows that only want the likeliest."""
    return None if ids is None else Choice(ids, [None] * len(ids), [None] * len(ids))


def _choose(masked: Sequence[tuple[Turn, list[Tensor]]], logits_RV: Tensor) -> Choice:
    places = [
        (turn.text.sequence, turn.guesses[:count]) for turn, _ in masked for count in range(len(turn.guesses) + 1)
    ]
    wanted = [mask for turn, masks in masked for mask in masks or [None] * len(turn.rows)]
    return choose_after(places, logits_RV, {row: mask for row, mask in enumerate(wanted) if mask is not None})


def _take(turn: Turn, chosen: Choice, first: int, texts: Texts, events: list[Event]) -> int | None:
    """Tokens of one text, from row `first` of the choice on, as long as they are what was guessed. Gives how many guesses were
    right, and None when the text is over."""
    text, guesses = turn.text, turn.guesses
    if not guesses:
        return 0 if texts.take(text, chosen.ids[first], chosen.logprobs[first], chosen.top[first], events) else None
    text.proposed += len(guesses)
    texts.proposed_tokens += len(guesses)
    for place, row in enumerate(range(first, first + len(turn.rows))):
        number = chosen.ids[row]
        right = place < len(guesses) and number == guesses[place]
        text.accepted += right
        texts.accepted_tokens += right
        if not texts.take(text, number, chosen.logprobs[row], chosen.top[row], events):
            return None
        if not right:
            return place
        text.sequence.computed += 1  # the guess was read as it stands
    raise AssertionError("the last row has no guess behind it")
