"""Steps over lists: a text into parts, a step for each item, many texts into one; and a choice between steps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast, get_args

from dunwu.core.errors import PromptError
from dunwu.core.nearest import shown
from dunwu.core.templates import nearest_name
from dunwu.prompt.chains.functions import packed, paragraphs, split_text
from dunwu.prompt.chains.kinds import fits, name_of
from dunwu.prompt.chains.running import Outcome, Row, Run, StepError, Values
from dunwu.prompt.chains.step import Step, outcome_of, step_of, steps_spec

By = Literal["paragraphs", "tokens", "characters"]
MOST_ROUNDS = 64


class Split(Step):
    """A long text into parts: its paragraphs, or as few parts as can be of at most `size` tokens or characters, cut between
    paragraphs, sentences or words. Tokens are the model's own where it is on this machine, and guessed otherwise."""

    kind = "split"

    def __init__(
        self, of: str, *, by: By = "tokens", size: int = 1_000, overlap: int = 0, gives: str = "parts"
    ) -> None:
        if by not in get_args(By):
            raise PromptError(f"split by {by!r}: {nearest_name(by, get_args(By))}")
        if size < 1 or not 0 <= overlap < size:
            raise PromptError(
                f"split with size {size} and overlap {overlap}: give a size of 1 or more, and less overlap"
            )
        self.of, self.by, self.size, self.overlap = of, by, size, overlap
        self.takes, self.gives = {of: str}, {gives: list[str]}

    async def do(self, items: Sequence[Values], run: Run, path: str, attempt: int) -> list[Outcome]:
        return [self._parts(item[self.of], run) for item in items]

    def _parts(self, text: Any, run: Run) -> Outcome:
        if not isinstance(text, str) or not text.strip():
            return Outcome(error=PromptError(f"{self.name}: {self.of} is {shown(text)}; give it text"))
        if self.by == "paragraphs":
            return Outcome(values={self.answer: paragraphs(text)})
        count = len if self.by == "characters" else run.count
        return Outcome(values={self.answer: split_text(text, self.size, count, overlap=self.overlap)})

    def spec(self) -> dict[str, Any]:
        found: dict[str, Any] = {"split": self.of, "by": self.by, "gives": self.answer}
        if self.by != "paragraphs":
            found["size"] = self.size
        return found | ({"overlap": self.overlap} if self.overlap else {})


class Map(Step):
    """A step for each item of the list `over`, which it takes as `item`; it gives a list of what the step gives. All items of all
    lists go through it together."""

    kind = "map"

    def __init__(self, step: Any, *, over: str, item: str = "item", gives: str = "") -> None:
        self.step = step_of(step)
        self.over, self.item = over, item
        if item not in self.step.takes:
            raise PromptError(
                f"map gives its step {item!r}, which it does not take; {nearest_name(item, self.step.takes)}"
            )
        self.takes = {name: kind for name, kind in self.step.takes.items() if name != item} | {over: list[Any]}
        self.optional = self.step.optional - {item}
        self.inner = self.step.answer
        self.gives = {gives or f"{self.inner}s": list[self.step.gives[self.inner]]}

    @property
    def inside(self) -> tuple[Step, ...]:
        return (self.step,)

    async def do(self, items: Sequence[Values], run: Run, path: str, attempt: int) -> list[Outcome]:
        outcomes = [self._require_list(item) for item in items]
        rows: list[list[Row]] = []
        for values, outcome in zip(items, outcomes, strict=True):
            listed: Sequence[Any] = values[self.over] if outcome.error is None else ()
            rows.append([Row(values={**values, self.item: one}) for one in listed])
        await self.step.apply([row for one in rows for row in one], run, f"{path}.each")
        for outcome, one in zip(outcomes, rows, strict=True):
            outcome.children = [span for row in one for span in row.spans]
            outcome.completion = next((row.completion for row in reversed(one) if row.completion), None)
            outcome.error = outcome.error or next((row.error for row in one if row.error), None)
            if outcome.error is None:
                outcome.values = {self.answer: [row.values[self.inner] for row in one]}
        return outcomes

    def _require_list(self, item: Values) -> Outcome:
        given = item[self.over]
        if isinstance(given, Sequence) and not isinstance(given, str | bytes):
            return Outcome()
        return Outcome(error=PromptError(f"{self.name}: {self.over} is {shown(given)}, not a list; give it one"))

    def spec(self) -> dict[str, Any]:
        return {"map": steps_spec(self.step), "over": self.over, "item": self.item, "gives": self.answer}


class Reduce(Step):
    """Many texts into one: groups of neighbours, at most `at_a_time` and, with `most_tokens`, no more tokens than that, go through
    a step that takes them as the list `item`; what it gives is grouped again, until one text is left."""

    kind = "reduce"

    def __init__(
        self,
        step: Any,
        *,
        over: str,
        item: str = "texts",
        at_a_time: int = 8,
        most_tokens: int | None = None,
        gives: str = "",
    ) -> None:
        self.step = step_of(step)
        if at_a_time < 2 or (most_tokens is not None and most_tokens < 1):
            raise PromptError(
                f"reduce with at_a_time {at_a_time} and most_tokens {most_tokens}: at least 2 texts must become one"
            )
        if item not in self.step.takes:
            raise PromptError(
                f"reduce gives its step {item!r}, which it does not take; {nearest_name(item, self.step.takes)}"
            )
        self.over, self.item, self.at_a_time, self.most_tokens = over, item, at_a_time, most_tokens
        self.inner = self.step.answer
        kind = self.step.gives[self.inner]
        if not fits(kind, str):
            raise PromptError(f"reduce needs a step that gives text, and {self.step.name} gives {name_of(kind)}")
        self.takes = {name: one for name, one in self.step.takes.items() if name != item} | {over: list[str]}
        self.optional = self.step.optional - {item}
        self.gives = {gives or self.inner: str}

    @property
    def inside(self) -> tuple[Step, ...]:
        return (self.step,)

    async def do(self, items: Sequence[Values], run: Run, path: str, attempt: int) -> list[Outcome]:
        left = [self._texts(item) for item in items]
        outcomes = [Outcome(error=one) if isinstance(one, Exception) else Outcome() for one in left]
        for turn in range(1, MOST_ROUNDS):
            work: list[tuple[int, Row]] = []
            alone: set[int] = set()
            for at, texts in enumerate(left):
                if outcomes[at].error is None and not isinstance(texts, Exception) and (turn == 1 or len(texts) > 1):
                    alone |= {at} if len(texts) == 1 else set()
                    groups = packed(texts, self.most_tokens, self.at_a_time, run.count)
                    work += [(at, Row(values={**items[at], self.item: group})) for group in groups]
            if not work:
                break
            # A text that is alone in its group waits for the next round; one that is alone from the beginning is reduced too.
            asking = [row for at, row in work if at in alone or len(row.values[self.item]) > 1]
            await self.step.apply(asking, run, f"{path}.round{turn}")
            gathered: dict[int, list[str]] = {}
            for at, row in work:
                outcome = outcomes[at]
                outcome.children += row.spans
                outcome.error = outcome.error or row.error
                outcome.completion = row.completion or outcome.completion
                gathered.setdefault(at, []).append(row.values.get(self.inner, row.values[self.item][0]))
            for at, texts in gathered.items():
                left[at] = texts
        for outcome, texts in zip(outcomes, left, strict=True):
            if outcome.error is None and not isinstance(texts, Exception):
                outcome.values = {self.answer: texts[0]}
        return outcomes

    def _texts(self, item: Values) -> list[str] | Exception:
        given = item[self.over]
        if not isinstance(given, Sequence) or isinstance(given, str | bytes) or not given:
            return PromptError(f"{self.name}: {self.over} is {shown(given)}; give it a list with at least one text")
        return [str(one) for one in cast("Sequence[Any]", given)]

    def spec(self) -> dict[str, Any]:
        found = {"reduce": steps_spec(self.step), "over": self.over, "item": self.item, "at_a_time": self.at_a_time}
        return found | ({"most_tokens": self.most_tokens} if self.most_tokens else {}) | {"gives": self.answer}


class Branch(Step):
    """One step of several, by the value `on`, or by a function of all values that are taken; `otherwise` where none is meant. All
    must give the same names."""

    kind = "branch"

    def __init__(self, on: str | Callable[[Values], str], when: Mapping[str, Any], *, otherwise: Any = None) -> None:
        self.on = on
        self.when = {str(key): step_of(step) for key, step in when.items()}
        self.otherwise = None if otherwise is None else step_of(otherwise)
        steps = [*self.when.values(), *([] if self.otherwise is None else [self.otherwise])]
        if not self.when:
            raise PromptError("branch needs at least one step to choose")
        self.takes = {name: kind for step in steps for name, kind in step.takes.items()}
        needed = {name for step in steps for name in step.takes if name not in step.optional}
        self.optional = frozenset(self.takes.keys() - needed)
        if isinstance(on, str):
            self.takes[on] = self.takes.get(on, Any)
            self.optional -= {on}
        self.gives = steps[0].gives
        for step in steps[1:]:
            if step.gives.keys() != self.gives.keys():
                raise PromptError(
                    f"the steps of a branch give different names: {', '.join(self.gives)} and {', '.join(step.gives)}; "
                    "let all give the same: gives=…"
                )

    @property
    def inside(self) -> tuple[Step, ...]:
        return (*self.when.values(), *(() if self.otherwise is None else (self.otherwise,)))

    async def do(self, items: Sequence[Values], run: Run, path: str, attempt: int) -> list[Outcome]:
        outcomes = [Outcome() for _ in items]
        chosen: dict[str | None, list[int]] = {}
        for at, item in enumerate(items):
            try:
                chosen.setdefault(self._choice(item), []).append(at)
            except PromptError as error:
                outcomes[at].error = error
        for key, places in chosen.items():
            step = self.otherwise if key is None else self.when[key]
            assert step is not None
            rows = [Row(values=dict(items[at])) for at in places]
            await step.apply(rows, run, f"{path}.{'otherwise' if key is None else key}")
            for at, row in zip(places, rows, strict=True):
                outcomes[at] = outcome_of(row, step.gives)
        return outcomes

    def _choice(self, item: Values) -> str | None:
        """The key; None for otherwise."""
        try:
            value = item[self.on] if isinstance(self.on, str) else self.on(item)
        except Exception as error:
            raise StepError(f"{self.name}: {type(error).__name__}: {error}") from error
        key = str(value).lower() if isinstance(value, bool) else str(value).strip()
        if key in self.when:
            return key
        if self.otherwise is None:
            raise StepError(f"{self.name}: there is no step for {shown(value)}; {nearest_name(key, self.when)}")
        return None

    def spec(self) -> dict[str, Any]:
        if not isinstance(self.on, str):
            raise PromptError(f"{self.name} chooses by a function, which YAML cannot hold; choose by a value's name")
        found: dict[str, Any] = {"branch": self.on, "when": {key: steps_spec(one) for key, one in self.when.items()}}
        return found | ({} if self.otherwise is None else {"otherwise": steps_spec(self.otherwise)})
