"""Files of preferences → a better and a worse answer to one prompt, or one answer with a verdict; found by looking at the rows.

Forms: chosen and rejected (TRL's with a prompt apart or within, HH-RLHF's transcripts, LLaMA-Factory's, messages), two
outputs and a verdict (AlpacaEval), scored answers (UltraFeedback: the best against the worst), labelled answers (KTO).
A row that cannot be used is named (file, line, why) and dropped, or stops the reading where `bad_rows` says `refuse`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from dunwu.core.errors import DataError
from dunwu.core.recipe import AnyPreferenceSource, PreferenceSource, PreferenceWorldSource
from dunwu.core.records import Message, Preference
from dunwu.corpus import preferences
from dunwu.corpus.instruction_formats import with_system
from dunwu.corpus.instructions import (
    ROWS_LOOKED_AT,
    check_conversation,
    require_object,
    row_files,
    without_end_markers,
)
from dunwu.corpus.json_rows import BadRow, JsonRow, json_rows
from dunwu.corpus.preferences import Chosen, NotWanted
from dunwu.corpus.tally import RowTally
from dunwu.corpus.turns import Row, tools_of
from dunwu.corpus.world.preferences import world_preferences

T = TypeVar("T")
EQUAL, EMPTY = "has two equal answers", "has an empty answer"


@dataclass(frozen=True, slots=True)
class _Sides:
    """The conversations that a row holds, to the better and to the worse answer; None where it has only one of them.

    `tie`: in words, where the row finds both equally good.
    """

    chosen: Chosen | None
    rejected: Chosen | None
    tie: str = ""


@dataclass(frozen=True, slots=True)
class PreferenceFormat:
    """How rows of one kind are told from others, and what they hold."""

    name: str
    fits: Callable[[Row], bool]
    sides: Callable[[Row], _Sides]


class JudgementReader(RowTally, ABC, Generic[T]):
    """Iterate to get what rows say; afterwards `kept`, `dropped`, `not_wanted` and `problems` say what became of the rows.

    `formats`: the format found, by file. `dropped`: rows by reason. `not_wanted`: rows that prefer nothing. `problems`: the
    first few bad rows as "file, line 7: why".
    """

    def __init__(self, source: AnyPreferenceSource, *, key: str = "prefer") -> None:
        super().__init__(bad_rows=source.bad_rows if isinstance(source, PreferenceSource) else "drop")
        self.source, self._key = source, key

    @property
    def folder(self) -> Path:
        """What the sources of rows are relative to."""
        return Path(self.source.path).parent if isinstance(self.source, PreferenceSource) else Path()

    def __iter__(self) -> Iterator[T]:
        """Raises DataError for a file that cannot be read, holds nothing of the kind, or has no usable row at all."""
        self.forget()
        if isinstance(self.source, PreferenceSource):
            for path in row_files(Path(self.source.path), f"{self._key}.sources[].path"):
                yield from self._read(path)
            return
        self.formats["the small world"] = "made up"
        for one in self._made_up(self.source):
            self.kept += 1
            yield one

    def _read(self, path: Path) -> Iterator[T]:
        rows = json_rows(path)
        head = list(islice(rows, ROWS_LOOKED_AT))
        self.formats[path.name] = name = self._look_at([row.value for row in head], path)
        before = self.kept
        for row in chain(head, rows):
            try:
                one = self._understood(row, path)
            except BadRow as bad:
                self.drop(bad, f"{path}, {row.place}")
            except NotWanted as why:
                self.not_wanted[str(why)] += 1
            else:
                self.kept += 1
                yield one
        if self.kept == before:
            first = self.problems[0] if self.problems else "; ".join(self.not_wanted) or "the file has no rows"
            raise DataError(f"{path}: none of the rows could be used as {name}; first: {first}")

    @abstractmethod
    def _look_at(self, rows: Sequence[Any], path: Path) -> str:
        """Tell the format by the first rows; returns its name. Raises DataError where it is none that is known."""

    @abstractmethod
    def _understood(self, row: JsonRow, path: Path) -> T:
        """What a row says. Raises BadRow, or NotWanted."""

    @abstractmethod
    def _made_up(self, source: PreferenceWorldSource) -> Iterator[T]:
        """The same of the small world."""


class PreferenceReader(JudgementReader[Preference]):
    """Preferences. `graded`: also by how much an answer is better, and which are equally good; these are not wanted otherwise."""

    def __init__(self, source: AnyPreferenceSource, *, key: str = "prefer", graded: bool = False) -> None:
        super().__init__(source, key=key)
        self._graded = graded

    def _look_at(self, rows: Sequence[Any], path: Path) -> str:
        self._format = _detect(rows, path)
        return self._format.name

    def _understood(self, row: JsonRow, path: Path) -> Preference:
        value = require_object(row.value, self._format.name, self._format.fits)
        sides = self._format.sides(value)
        if sides.tie and not self._graded:
            raise NotWanted(sides.tie)
        chosen, rejected = (_messages(value, side) for side in (sides.chosen, sides.rejected))
        prompt, chosen, rejected = parted(chosen, rejected)
        return Preference(
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
            source=f"{path.name}#{row.number}",
            tools=tools_of(value),
            margin=_margin(value) if self._graded else None,
            tie=bool(sides.tie),
        )

    def _made_up(self, source: PreferenceWorldSource) -> Iterator[Preference]:
        return world_preferences(source)


def _margin(row: Row) -> float | None:
    """By how much the chosen answer is better, where the row says so."""
    margin = row.get("margin")
    if margin is None:
        return None
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not math.isfinite(margin) or margin < 0:
        raise BadRow("has a margin that is no number from 0 on", f"`margin` is {margin!r}")
    return float(margin)


def read_preferences(source: AnyPreferenceSource) -> Iterator[Preference]:
    """The preferences of a file, of all .json/.jsonl files in a folder, or of the small world, in order. See
    `PreferenceReader`."""
    return iter(PreferenceReader(source))


def _messages(row: Row, side: Chosen | None) -> tuple[Message, ...] | None:
    if side is None:
        return None
    messages, _ = without_end_markers(with_system(row, side).messages)
    check_conversation(messages)
    return messages


Turns = tuple[Message, ...]


def parted(chosen: Turns | None, rejected: Turns | None) -> tuple[Turns, Turns | None, Turns | None]:
    """What two conversations share, and how each goes on. Raises BadRow where they are no two answers to one prompt."""
    if chosen is None or rejected is None:
        prompt, answer = _last_answer(chosen or rejected or ())
        return (prompt, answer, None) if chosen is not None else (prompt, None, answer)
    if chosen == rejected:
        raise BadRow(EQUAL, f"both say {chosen[-1].content[:60]!r}")
    same = next(
        (at for at, (ours, theirs) in enumerate(zip(chosen, rejected, strict=False)) if ours != theirs),
        min(len(chosen), len(rejected)),
    )
    if same in (len(chosen), len(rejected)):
        raise BadRow(EMPTY, "one side is only the beginning of the other")
    if {chosen[same].role, rejected[same].role} != {"assistant"}:
        raise BadRow("has two different prompts", f"message {same + 1} is not the same on both sides")
    return chosen[:same], chosen[same:], rejected[same:]


def shared_prompt(row: Row) -> Turns:
    """What both sides of a row of chosen and rejected answer. Raises BadRow where that is nothing."""
    chosen, rejected = (_messages(row, side) for side in (_pair(row).chosen, _pair(row).rejected))
    return parted(chosen, rejected)[0]


def _last_answer(messages: Turns) -> tuple[Turns, Turns]:
    """A conversation before its last answer, and that: all after what was last asked."""
    asked = max(place for place, message in enumerate(messages) if message.role == "user")
    return messages[: asked + 1], messages[asked + 1 :]


def _pair(row: Row) -> _Sides:
    tie = "a row that calls itself a tie" if row.get("tie") is True else ""
    return _Sides(preferences.side(row, row["chosen"]), preferences.side(row, row["rejected"]), tie)


def _judged(row: Row) -> _Sides:
    if row["preference"] == preferences.NEITHER:
        first, second = (preferences.side(row, row[key]) for key in ("output_1", "output_2"))
        return _Sides(first, second, preferences.PREFERS_NEITHER)
    better = preferences.preferred_key(row)
    worse = "output_2" if better == "output_1" else "output_1"
    return _Sides(preferences.side(row, row[better]), preferences.side(row, row[worse]))


def _scored(row: Row) -> _Sides:
    answers = cast("list[Row]", row["completions"])
    scores = [preferences.score_of(answer) for answer in answers]
    if len(answers) < 2 or float("-inf") in scores:
        raise BadRow("has no two scored answers", f"{len(answers)} answers, scores {scores[:4]}")
    if min(scores) == max(scores):
        first, second = (preferences.side(row, answer["response"]) for answer in answers[:2])
        return _Sides(first, second, "scores that prefer no answer")
    best, worst = (answers[scores.index(extreme)]["response"] for extreme in (max(scores), min(scores)))
    return _Sides(preferences.side(row, best), preferences.side(row, worst))


def _labelled(row: Row) -> _Sides:
    answer = preferences.labelled(row)
    return _Sides(answer, None) if preferences.is_wanted(row) else _Sides(None, answer)


FORMATS = (
    PreferenceFormat("chosen and rejected", preferences.is_pair, _pair),
    PreferenceFormat("judged pairs", preferences.is_judged, _judged),
    PreferenceFormat("scored answers", preferences.is_scored, _scored),
    PreferenceFormat("labelled answers", preferences.is_labelled, _labelled),
)


def _detect(rows: Sequence[Any], path: Path) -> PreferenceFormat:
    objects = [cast(Row, row) for row in rows if isinstance(row, dict)]
    for row_format in FORMATS:
        if 2 * sum(row_format.fits(row) for row in objects) > len(objects) > 0:
            return row_format
    keys = sorted({str(key) for row in objects for key in row})[:12]
    raise DataError(
        f"{path} holds no preferences: its keys are {keys}; rows need chosen and rejected, output_1, output_2 and preference, "
        "completions with scores, or an answer with a label"
    )
