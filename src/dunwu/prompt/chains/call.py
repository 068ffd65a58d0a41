"""A step that calls a function."""

import asyncio
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from dunwu.core.errors import DunwuError, PromptError
from dunwu.core.templates import nearest_name
from dunwu.prompt.chains.functions import FUNCTIONS
from dunwu.prompt.chains.running import Outcome, Run, StepError, Values
from dunwu.prompt.chains.step import Step


class Call(Step):
    """Takes what the function's parameters are called, or what `reads` says for a parameter: `reads={"text": "document"}`.
    `fixed`: arguments that are always the same. `gives`: the name of the result; several names for a mapping or a tuple of as many.

    The function may be asynchronous; one that is not runs in a thread. What it raises is a StepError.
    """

    kind = "call"

    def __init__(
        self,
        function: Callable[..., Any] | str,
        *,
        gives: str | Sequence[str] = "",
        reads: Mapping[str, str] | None = None,
        fixed: Mapping[str, Any] | None = None,
        saved_as: str = "",
    ) -> None:
        if isinstance(function, str):
            if function not in FUNCTIONS:
                raise PromptError(f"there is no function {function!r}; {nearest_name(function, FUNCTIONS)}")
            function, saved_as = FUNCTIONS[function], function
        self.function, self.saved_as = function, saved_as
        self.fixed, self.reads = dict(fixed or {}), dict(reads or {})
        called = getattr(function, "__name__", type(function).__name__)
        parameters, hints = _parameters(function, called)
        for name in (*self.fixed, *self.reads):
            if name not in parameters:
                raise PromptError(f"{called} has no parameter {name!r}; {nearest_name(name, parameters)}")
        wanted = {name: one for name, one in parameters.items() if name not in self.fixed}
        self._values = {name: self.reads.get(name, name) for name in wanted}
        self.takes = {self._values[name]: hints.get(name, Any) for name in wanted}
        self.optional = frozenset(
            self._values[name] for name, one in wanted.items() if one.default is not inspect.Parameter.empty
        )
        given = (gives,) if isinstance(gives, str) and gives else tuple(gives) or (called,)
        result = hints.get("return", Any)
        self.gives = {given[0]: result} if len(given) == 1 else dict.fromkeys(given, Any)

    async def do(self, items: Sequence[Values], run: Run, path: str, attempt: int) -> list[Outcome]:
        if inspect.iscoroutinefunction(self.function):
            return list(await asyncio.gather(*(self._awaited(item) for item in items)))
        return await asyncio.to_thread(lambda: [self._called(item) for item in items])

    def _arguments(self, item: Values) -> dict[str, Any]:
        return self.fixed | {name: item[value] for name, value in self._values.items() if value in item}

    def _called(self, item: Values) -> Outcome:
        try:
            return self._outcome(self.function(**self._arguments(item)))
        except Exception as error:
            return self._failed(error)

    async def _awaited(self, item: Values) -> Outcome:
        try:
            return self._outcome(await self.function(**self._arguments(item)))
        except Exception as error:
            return self._failed(error)

    def _outcome(self, result: Any) -> Outcome:
        names = list(self.gives)
        if len(names) == 1:
            return Outcome(values={names[0]: result})
        if isinstance(result, Mapping):
            found = cast("Mapping[str, Any]", result)
            missing = [name for name in names if name not in found]
            if missing:
                raise PromptError(f"{self.name} gave no {missing[0]!r}; {nearest_name(missing[0], map(str, found))}")
            return Outcome(values={name: found[name] for name in names})
        if isinstance(result, tuple) and len(cast("tuple[Any, ...]", result)) == len(names):
            return Outcome(values=dict(zip(names, cast("tuple[Any, ...]", result), strict=True)))
        raise PromptError(f"{self.name} must return a mapping or a tuple of {len(names)}, for {', '.join(names)}")

    def _failed(self, error: Exception) -> Outcome:
        if isinstance(error, DunwuError):
            return Outcome(error=error)
        failed = StepError(f"{self.name}: {type(error).__name__}: {error}")
        failed.__cause__ = error
        return Outcome(error=failed)

    def spec(self) -> dict[str, Any]:
        if not self.saved_as:
            raise PromptError(
                f"{self.name} calls a function that YAML cannot name; use one of {', '.join(FUNCTIONS)}, or give the chain's file "
                "`call: FILE.py:NAME` by hand"
            )
        names = list(self.gives)
        found: dict[str, Any] = {"call": self.saved_as}
        arguments = {name: {"value": value} for name, value in self.fixed.items()} | self.reads
        if arguments:
            found["with"] = arguments
        return found | {"gives": names[0] if len(names) == 1 else names}


def _parameters(function: Callable[..., Any], called: str) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    try:
        parameters = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError) as error:
        raise PromptError(f"{called} does not say what it takes; wrap it in a function that does") from error
    for name, one in list(parameters.items()):
        if one.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise PromptError(
                f"{called} takes {name!r} by its place alone; wrap it in a function that takes it by name"
            )
        if one.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            del parameters[name]
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # annotations that name what is not there
        hints = {}
    return parameters, hints
