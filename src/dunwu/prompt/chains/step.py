"""Steps, and how they are put together: `a | b` one after the other, `a & b` side by side.

A step takes values by name and gives values by name; what it takes is given by a step before it, or from outside. Steps work on
many items at once: a batch goes through a chain step by step, and each step asks its model for all items together.
"""

import asyncio
import copy
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Self

from dunwu.core.errors import DunwuError, PromptError
from dunwu.core.templates import nearest_name
from dunwu.prompt.chains.kinds import fits, name_of
from dunwu.prompt.chains.runner import Chats, events_of, iterated, run_all, waited
from dunwu.prompt.chains.running import (
    Again,
    Began,
    Ended,
    Event,
    Outcome,
    Result,
    Retry,
    Row,
    Run,
    Text,
    Values,
    may_help,
)
from dunwu.prompt.chains.trace import Span, jsonable

Coercion = tuple[Callable[[Any], bool], Callable[[Any], "Step"]]
COERCIONS: list[Coercion] = []
"""What else can stand where a step is due; the kinds of steps add to it."""


class Step(ABC):
    """`takes`: names to kinds (`Any` where nobody says), those in `optional` may be missing. `gives`: likewise; the last name is
    what the step is for. `kind`: what a YAML file calls it."""

    kind = "step"
    takes: Mapping[str, Any]
    optional: frozenset[str] = frozenset()
    gives: Mapping[str, Any]
    label: str = ""
    retry: Retry = Retry(attempts=1)

    @abstractmethod
    async def do(self, items: Sequence[Values], run: Run, path: str, attempt: int) -> list[Outcome]:
        """An outcome for each item, in their order; `attempt` counts from 0."""
        ...

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """As YAML holds it. Raises PromptError for a step that YAML cannot hold."""
        ...

    @property
    def name(self) -> str:
        """For people: its own, or its kind and what it gives."""
        return self.label or f"{self.kind} {', '.join(self.gives)}".strip()

    @property
    def inside(self) -> "tuple[Step, ...]":
        """The steps that it holds."""
        return ()

    @property
    def answer(self) -> str:
        """The name of the value that the step is for."""
        return next(reversed(list(self.gives)), "")

    def named(self, label: str) -> Self:
        """The same step under a name of its own."""
        other = copy.copy(self)
        other.label = label
        return other

    def retrying(self, attempts: int = 3, *, first_wait_s: float = 0.5, most_wait_s: float = 30.0) -> Self:
        """The same step, attempted again where that may help: a partner that is busy or broke off, an answer that cannot be
        parsed, a function that failed. To ask again for an answer that cannot be parsed, retry asking and parsing together:
        `(ask | parse).retrying(3)`, with a temperature above 0, or the same answer comes again."""
        other = copy.copy(self)
        other.retry = Retry(attempts=attempts, first_wait_s=first_wait_s, most_wait_s=most_wait_s)
        return other

    def run(self, values: Values, chat: Chats = None, **how: Any) -> Result:
        """Run with these values. `chat`: who answers, or several by name. `options`: a ChatOptions for steps that say nothing
        else; `count`: tokens of a text. Raises what ended it, a DunwuError."""
        return waited(self.run_async(values, chat, **how))

    async def run_async(self, values: Values, chat: Chats = None, **how: Any) -> Result:
        """The same in asyncio."""
        (result,) = await run_all(self, [values], chat, **how)
        if result.error is not None:
            raise result.error
        return result

    def batch(self, items: Sequence[Values], chat: Chats = None, **how: Any) -> list[Result]:
        """Many at once; one that fails says so in its result, and does not end the others."""
        return waited(self.batch_async(items, chat, **how))

    async def batch_async(self, items: Sequence[Values], chat: Chats = None, **how: Any) -> list[Result]:
        """The same in asyncio."""
        return await run_all(self, items, chat, **how)

    def events(self, values: Values, chat: Chats = None, **how: Any) -> Iterator[Event]:
        """All that happens, as it happens, and last the Result, with its error where there is one."""
        return iterated(self.events_async(values, chat, **how))

    def events_async(self, values: Values, chat: Chats = None, **how: Any) -> AsyncGenerator[Event]:
        """The same in asyncio; close it (`aclosing`) when you leave early."""
        return events_of(self, values, chat, **how)

    def stream(self, values: Values, chat: Chats = None, **how: Any) -> Iterator[str]:
        """The answer in pieces: as the last step writes it where that asks a model, else whole. Raises what ended it."""
        return iterated(self.stream_async(values, chat, **how))

    async def stream_async(self, values: Values, chat: Chats = None, **how: Any) -> AsyncGenerator[str]:
        """The same in asyncio."""
        last = self.speaks("")
        said = False
        async with aclosing(self.events_async(values, chat, **how)) as events:
            async for event in events:
                if isinstance(event, Text) and event.path == last:
                    said = True
                    yield event.text
                elif isinstance(event, Again) and said:
                    raise PromptError(f"the answer broke off: {event.error}; ask again")
                elif isinstance(event, Result):
                    if event.error is not None:
                        raise event.error
                    if not said:
                        yield event.answer if isinstance(event.answer, str) else str(event.answer)

    async def walk(self, rows: Sequence[Row], run: Run, before: str) -> None:
        """Take rows through it, as a whole chain."""
        await self.apply(rows, run, f"{before}1")

    def speaks(self, before: str) -> str:
        """The path of the step whose words are the answer as it is written; "" where none is."""
        return f"{before}1" if self.kind == "ask" else ""

    def __or__(self, other: Any) -> "Chain":
        return Chain(self, other)

    def __ror__(self, other: Any) -> "Chain":
        return Chain(other, self)

    def __and__(self, other: Any) -> "Parallel":
        return Parallel(self, other)

    def __rand__(self, other: Any) -> "Parallel":
        return Parallel(other, self)

    def __repr__(self) -> str:
        return f"<{self.name}: {', '.join(self.takes) or 'nothing'} → {', '.join(self.gives)}>"

    async def apply(self, rows: Sequence[Row], run: Run, path: str) -> None:
        """Go on with each row that has no error, again where that may help, and write down what happened."""
        work = [(row, self._span(row, run, path)) for row in rows if row.error is None]
        if not work:
            return
        for _, span in work:
            span.batch = len(work)
        await run.tell(Began(path=path, step=self.name, items=len(work)))
        attempt = 0
        while work:
            outcomes = await self._attempt([row for row, _ in work], run, path, attempt)
            attempt += 1
            again: list[tuple[Row, Span]] = []
            errors: list[Exception] = []
            for (row, span), outcome in zip(work, outcomes, strict=True):
                if outcome.error is not None and attempt < self.retry.attempts and may_help(outcome.error):
                    again.append((row, span))
                    errors.append(outcome.error)
                    span.failures.append(str(outcome.error))
                    _count(span, outcome)
                else:
                    self._close(row, span, outcome, run)
                    await run.tell(Ended(span=span))
            work = again
            if work:
                wait_s = self.retry.wait_s(attempt, errors, run.chance)
                await run.tell(Again(path=path, error=str(errors[0]), wait_s=wait_s))
                await run.sleep(wait_s)

    async def _attempt(self, rows: Sequence[Row], run: Run, path: str, attempt: int) -> list[Outcome]:
        items = [{name: row.values[name] for name in self.takes if name in row.values} for row in rows]
        try:
            return await self.do(items, run, path, attempt)
        except DunwuError as error:
            return [Outcome(error=error) for _ in items]

    def _span(self, row: Row, run: Run, path: str) -> Span:
        given = {name: jsonable(row.values[name]) for name in self.takes if name in row.values}
        return Span(path=path, step=self.name, kind=self.kind, began_s=run.clock() - run.began, input=given)

    def _close(self, row: Row, span: Span, outcome: Outcome, run: Run) -> None:
        _count(span, outcome)
        span.seconds = run.clock() - run.began - span.began_s
        span.asked = [{"role": one.role, "content": one.content} for one in outcome.asked]
        if outcome.error is not None:
            row.error, span.error = outcome.error, str(outcome.error)
        else:
            row.values.update(outcome.values)
            span.output = {name: jsonable(value) for name, value in outcome.values.items()}
        row.completion = outcome.completion or row.completion
        if outcome.completion is not None and not outcome.children:
            span.finish_reason, span.model = outcome.completion.finish_reason, outcome.completion.model
        row.spans.append(span)


def _count(span: Span, outcome: Outcome) -> None:
    """Attempts that failed took tokens too."""
    span.children += outcome.children
    used = outcome.completion.usage if outcome.completion and not outcome.children else None
    costs = [outcome.completion.cost] if outcome.completion and not outcome.children else []
    span.prompt_tokens += used.prompt_tokens if used else 0
    span.completion_tokens += used.completion_tokens if used else 0
    for child in outcome.children:
        span.prompt_tokens += child.prompt_tokens
        span.completion_tokens += child.completion_tokens
        costs.append(child.cost)
    known = [cost for cost in [span.cost, *costs] if cost is not None]
    span.cost = sum(known) if known else None


def step_of(value: Any) -> Step:
    """A step, or what can stand for one: a template, a partner, a function, a pydantic model. Raises PromptError."""
    if isinstance(value, Step):
        return value
    for fitting, made in COERCIONS:
        if fitting(value):
            return made(value)
    raise PromptError(
        f"{value!r} is no step of a chain; give a step, a Template, a Chat, a function or a pydantic model"[:300]
    )


class Inputs(Step):
    """What a chain is given from outside, and of what kind: `Inputs("document", n=int)`. It can only begin a chain."""

    kind = "inputs"

    def __init__(self, *names: str, **kinds: Any) -> None:
        self.takes = self.gives = {**dict.fromkeys(names, Any), **kinds}

    async def do(self, items: Sequence[Values], run: Run, path: str, attempt: int) -> list[Outcome]:
        return [Outcome(values=dict(item)) for item in items]

    def spec(self) -> dict[str, Any]:
        return {name: name_of(kind) for name, kind in self.takes.items()}


class Chain(Step):
    """Steps one after the other; each can read what any before it gave. What the chain is given is what its first step takes, or
    what `Inputs` at its beginning says. Inside another step it gives what its last step gives.

    Raises PromptError where a step needs what nobody gives it, or gives a name that another already gave.
    """

    kind = "chain"

    def __init__(self, *steps: Any, name: str = "", answer: str = "") -> None:
        found = [one for value in steps for one in _flat(step_of(value))]
        if not found:
            raise PromptError("a chain needs at least one step")
        self.inputs = found[0] if isinstance(found[0], Inputs) else None
        self.steps = tuple(found[1:] if self.inputs else found)
        self.label = name
        if not self.steps:
            raise PromptError("a chain needs a step beside its inputs")
        first = self.inputs or self.steps[0]
        self.takes, self.optional = dict(first.takes), first.optional
        known = _check(self.steps, self.takes, declared=self.inputs is not None)
        if answer and answer not in known:
            raise PromptError(
                f"the answer of the chain is {answer!r}, which no step gives; {nearest_name(answer, known)}"
            )
        self.chosen = answer
        self.gives = {answer: known[answer]} if answer else self.steps[-1].gives

    @property
    def inside(self) -> tuple[Step, ...]:
        return self.steps

    async def do(self, items: Sequence[Values], run: Run, path: str, attempt: int) -> list[Outcome]:
        rows = [Row(values=dict(item)) for item in items]
        await self.walk(rows, run, f"{path}.")
        return [outcome_of(row, self.gives) for row in rows]

    async def walk(self, rows: Sequence[Row], run: Run, before: str) -> None:
        if not before and self.retry.attempts > 1:
            return await self.apply(rows, run, "1")
        for number, step in enumerate(self.steps, 1):
            await step.apply(rows, run, f"{before}{number}")

    def speaks(self, before: str) -> str:
        last = self.steps[-1]
        if last.answer != self.answer or len(self.gives) > 1 or self.retry.attempts > 1:
            return ""
        path = f"{before}{len(self.steps)}"
        return path if last.kind == "ask" else last.speaks(f"{path}.") if isinstance(last, Chain) else ""

    def spec(self) -> dict[str, Any]:
        begin = {"inputs": self.inputs.spec()} if self.inputs else {}
        end = {"answer": self.chosen} if self.chosen else {}
        return begin | {"chain": [full_spec(step) for step in self.steps]} | end

    @property
    def name(self) -> str:
        return self.label or "chain"


class Parallel(Step):
    """Steps side by side, on the same values; what they give must have different names."""

    kind = "parallel"

    def __init__(self, *steps: Any) -> None:
        found = [one for value in steps for one in _beside(step_of(value))]
        if len(found) < 2:
            raise PromptError("Parallel needs at least two steps; a single one stands alone")
        self.steps = tuple(found)
        takes: dict[str, Any] = {}
        gives: dict[str, Any] = {}
        for step in self.steps:
            for name, kind in step.takes.items():
                if name in takes and not (fits(takes[name], kind) or fits(kind, takes[name])):
                    raise PromptError(
                        f"side by side, {name!r} is wanted as {name_of(takes[name])} and as {name_of(kind)}; "
                        "give one of them another name"
                    )
                takes[name] = kind if takes.get(name, Any) is Any else takes[name]
            for name, kind in step.gives.items():
                if name in gives:
                    raise PromptError(f"side by side, two steps give {name!r}; give one of them another name: gives=…")
                gives[name] = kind
        self.takes, self.gives = takes, gives
        needed = {name for step in self.steps for name in step.takes if name not in step.optional}
        self.optional = frozenset(takes.keys() - needed)

    @property
    def inside(self) -> tuple[Step, ...]:
        return self.steps

    async def do(self, items: Sequence[Values], run: Run, path: str, attempt: int) -> list[Outcome]:
        beside = [[Row(values=dict(item)) for item in items] for _ in self.steps]
        await asyncio.gather(
            *(
                step.apply(rows, run, f"{path}.{n}")
                for n, (step, rows) in enumerate(zip(self.steps, beside, strict=True), 1)
            )
        )
        outcomes: list[Outcome] = []
        for rows in zip(*beside, strict=True):
            whole = Outcome(children=[span for row in rows for span in row.spans])
            for row, step in zip(rows, self.steps, strict=True):
                whole.error = whole.error or row.error
                whole.completion = row.completion or whole.completion
                whole.values |= {name: row.values[name] for name in step.gives if name in row.values}
            outcomes.append(whole)
        return outcomes

    def spec(self) -> dict[str, Any]:
        return {"parallel": [steps_spec(step) for step in self.steps]}


def outcome_of(row: Row, gives: Mapping[str, Any]) -> Outcome:
    """What became of a row inside a step that holds others."""
    return Outcome(
        values={name: row.values[name] for name in gives if name in row.values},
        error=row.error,
        completion=row.completion,
        children=row.spans,
    )


def full_spec(step: Step) -> dict[str, Any]:
    """With its name and its retries."""
    found = step.spec()
    if step.label:
        found = found | {"name": step.label}
    if step.retry.attempts > 1:
        retry = {"attempts": step.retry.attempts}
        defaults = Retry()
        for key in ("first_wait_s", "most_wait_s"):
            if getattr(step.retry, key) != getattr(defaults, key):
                retry[key] = getattr(step.retry, key)
        found = found | {"retries": retry}
    return found


def steps_spec(step: Step) -> list[dict[str, Any]]:
    """The steps that stand where one is due."""
    if isinstance(step, Chain) and _is_plain(step) and step.inputs is None:
        return [full_spec(one) for one in step.steps]
    return [full_spec(step)]


def _flat(step: Step) -> Sequence[Step]:
    """The steps of a chain that is nothing but its steps."""
    if isinstance(step, Chain) and _is_plain(step):
        return (*((step.inputs,) if step.inputs else ()), *step.steps)
    return (step,)


def _is_plain(chain: Chain) -> bool:
    return not chain.label and not chain.chosen and chain.retry.attempts == 1


def _beside(step: Step) -> Sequence[Step]:
    return step.steps if type(step) is Parallel and not step.label and step.retry.attempts == 1 else (step,)


def _check(steps: Sequence[Step], inputs: Mapping[str, Any], *, declared: bool) -> dict[str, Any]:
    """All names that are known at the end. Raises PromptError."""
    known, givers = dict(inputs), dict.fromkeys(inputs, "the inputs")
    for number, step in enumerate(steps, 1):
        where = f"step {number} ({step.name})"
        if isinstance(step, Inputs):
            raise PromptError(f"{where}: Inputs can only begin a chain; put them first")
        for name, kind in step.takes.items():
            if name not in known:
                if name in step.optional:
                    continue
                remedy = nearest_name(name, known)
                more = f", or name it among the inputs: Inputs({', '.join(map(repr, [*inputs, name]))})"
                raise PromptError(f"{where} needs {name!r}, which nobody gives it; {remedy}{'' if declared else more}")
            if not fits(known[name], kind):
                raise PromptError(
                    f"{where} takes {name!r} as {name_of(kind)}, and {givers[name]} gives it as {name_of(known[name])}; "
                    "put a step between them"
                )
        for name, kind in step.gives.items():
            if name in known and name not in step.takes:
                raise PromptError(
                    f"{where} gives {name!r}, which {givers[name]} already gave; call it something else: gives=…"
                )
            known[name], givers[name] = kind, where
    return known
