"""A row becomes a problem, by a task's templates; what does not fit is told with file, row and field."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from dunwu.core.errors import DataError
from dunwu.core.problems import Problem
from dunwu.evaluate.tasks.rendering import UnknownNameError, text_of, value_of
from dunwu.evaluate.tasks.rows import TaskRow
from dunwu.evaluate.tasks.spec import TaskSpec

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class ProblemMaker:
    """One row on its way to a problem. `subject`: what its file stands for. `shown`: whether it is a demonstration."""

    def __init__(self, spec: TaskSpec, row: TaskRow, subject: str, *, shown: bool) -> None:
        self.spec, self.row, self.shown = spec, row, shown
        self.values: dict[str, Any] = dict(row.values)
        if subject:
            self.values.setdefault("subject", subject)
        self.subject = subject

    def each(self) -> Iterator["ProblemMaker"]:
        """This row, or one for each item of what the task parts it into."""
        if not self.spec.each:
            yield self
            return
        items = self._value("each", "{{" + self.spec.each + "}}")
        if not isinstance(items, list | tuple):
            raise self._wrong(f"`each` gave {_short(items)}, which is no list")
        for number, item in enumerate(items):
            values = {**self.row.values, "item": item, "item_number": number}
            yield ProblemMaker(self.spec, replace(self.row, values=values), self.subject, shown=self.shown)

    def problem(self, counts: dict[str, int]) -> Problem | None:
        """The problem; None for a row that `where` leaves out. `counts`: rows so far by subject."""
        spec, shots = self.spec, self.spec.shots
        for key, template in spec.fields.items():
            self.values[key] = self._value(key, template)
        where = shots.where if self.shown and shots.split != spec.split else spec.where
        if where and not self._value("where", "{{" + where + "}}"):
            return None
        subject = self._text("subject", spec.subject) if spec.subject else self.subject
        number = counts[subject] = counts.get(subject, -1) + 1
        own = f"{subject}/{number}" if subject else str(number)
        choices, right = self._choices()
        target = spec.target if not self.shown or shots.target is None else shots.target
        text = spec.input if not self.shown or shots.input is None else shots.input
        return Problem(
            id=self._text("id", spec.id) if spec.id and not self.shown else own,
            input=self._text("input", text),
            target=self._text("target", target) if target or right is None else choices[right],
            choices=choices,
            right=right,
            group=self._text("group", spec.group),
            subject=subject,
            language=self.values.get("language", spec.language) or spec.language,
            columns=self.values,
        )

    def _choices(self) -> tuple[tuple[str, ...], int | None]:
        given = self.spec.choices
        if not given:
            return (), None
        value = (
            self._value("choices", given) if isinstance(given, str) else [self._text("choices", one) for one in given]
        )
        if (
            not isinstance(value, list | tuple)
            or not value
            or not all(isinstance(one, str | int | float) for one in value)
        ):
            raise self._wrong(f"`choices` gave {_short(value)}, which is no list of texts")
        choices = tuple(map(str, value))
        return choices, self._right(choices)

    def _right(self, choices: tuple[str, ...]) -> int | None:
        if self.spec.right == "":
            return None
        value = self._value("right", self.spec.right)
        several = value if isinstance(value, list | tuple) and value else (value,)
        places = [_place_of(one, choices) for one in several]
        found = [place for place in places if place is not None]
        if len(found) < len(places):
            letters = LETTERS[: len(choices)]
            raise self._wrong(
                f"the answer key {_short(value)} (`right`) is none of the {len(choices)} choices; it must be a place from 0 to "
                f"{len(choices) - 1}, a letter of {letters}, or a choice's text"
            )
        if isinstance(value, list | tuple):
            self.values["right_choices"] = sorted(found)
        return found[0]

    def _text(self, key: str, template: str) -> str:
        return "" if not template else self._run(key, lambda: text_of(template, self.values))

    def _value(self, key: str, template: Any) -> Any:
        return self._run(key, lambda: value_of(template, self.values))

    def _run(self, key: str, render: Callable[[], Any]) -> Any:
        try:
            return render()
        except UnknownNameError as error:
            near = difflib.get_close_matches(error.name, self.values, n=1)
            has = f"did you mean {near[0]!r}?" if near else f"the row has {', '.join(map(str, self.values)) or 'none'}"
            raise self._wrong(f"no field {error.name!r}, which `{key}` reads; {has}") from error
        except DataError as error:
            raise self._wrong(f"`{key}`: {error}") from error

    def _wrong(self, why: str) -> DataError:
        return DataError(f"the task {self.spec.name}: {self.row.place}: {why}")


def _place_of(value: Any, choices: Sequence[str]) -> int | None:
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return value if 0 <= value < len(choices) else None
    text = str(value).strip()
    if choices.count(text) == 1 and not (len(text) == 1 and text in LETTERS):
        return choices.index(text)
    if text.isdecimal():
        return int(text) if int(text) < len(choices) else None
    if len(text) == 1 and text.upper() in LETTERS[: len(choices)]:
        return LETTERS.index(text.upper())
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
