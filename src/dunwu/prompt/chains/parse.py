"""Steps that read an answer: JSON, lines, an expression, a pydantic model. What cannot be read is a StepError, so that asking and
reading together can be retried."""

import json
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import regex
from pydantic import BaseModel, ValidationError

from dunwu.core.errors import PromptError
from dunwu.core.nearest import shown
from dunwu.prompt.chains.kinds import fields_of
from dunwu.prompt.chains.running import Outcome, Run, StepError, Values
from dunwu.prompt.chains.step import Step

_FENCE = regex.compile(r"```[ \t]*\w*[^\n]*\n(.*?)(?:```|\Z)", regex.DOTALL)
_MARKER = regex.compile(r"^\s*(?:[-*•·]|\(?\d{1,3}[.):、]\)?|\(?[a-zA-Z][.)])\s+|^\s*\d{1,3}、\s*")
SEARCH_S = 2.0
MOST_STARTS = 100


class Parser(Step):
    """Reads the text `of`."""

    kind = "parse"

    def __init__(self, gives: str, of: str, kind: Any) -> None:
        self.of = of
        self.takes, self.gives = {of: str}, {gives: kind}

    @abstractmethod
    def read(self, text: str) -> Any:
        """Raises StepError."""
        ...

    @abstractmethod
    def how(self) -> Any:
        """What stands after `parse:` in YAML."""
        ...

    async def do(self, items: Sequence[Values], run: Run, path: str, attempt: int) -> list[Outcome]:
        return [self._outcome(item[self.of]) for item in items]

    def _outcome(self, text: Any) -> Outcome:
        try:
            if not isinstance(text, str):
                raise PromptError(f"{self.name} reads text, and {self.of} is {shown(text)}; give it text")
            return Outcome(values={self.answer: self.read(text)})
        except PromptError as error:
            return Outcome(error=error)

    def spec(self) -> dict[str, Any]:
        return {"parse": self.how(), "of": self.of, "gives": self.answer}


class Json(Parser):
    """The first JSON object or array of an answer, whatever stands around it; a bare number or text where nothing else does."""

    def __init__(self, gives: str = "data", *, of: str = "answer") -> None:
        super().__init__(gives, of, Any)

    def read(self, text: str) -> Any:
        return first_json(text, self.name)

    def how(self) -> Any:
        return "json"


class Schema(Parser):
    """An object that a pydantic model takes."""

    def __init__(self, model: type[BaseModel], gives: str = "data", *, of: str = "answer") -> None:
        super().__init__(gives, of, model)
        self.model = model

    def read(self, text: str) -> BaseModel:
        found = first_json(text, self.name)
        try:
            return self.model.model_validate(found)
        except ValidationError as error:
            wrong = error.errors()[0]
            place = ".".join(map(str, wrong["loc"])) or "the whole"
            raise StepError(f"{self.name}: the answer's {place}: {wrong['msg']}; it is {shown(found)}") from error

    def how(self) -> Any:
        fields = fields_of(self.model)
        if fields is None:
            raise PromptError(f"{self.name} has a model that YAML cannot hold; keep the chain in Python")
        return {"fields": fields}


class Lines(Parser):
    """The lines of an answer that say something, without the marks of a list: `- `, `1. `, `a) `."""

    def __init__(self, gives: str = "lines", *, of: str = "answer", marks: bool = False) -> None:
        super().__init__(gives, of, list[str])
        self.marks = marks

    def read(self, text: str) -> list[str]:
        lines = [line if self.marks else _MARKER.sub("", line) for line in text.splitlines()]
        if found := [line.strip() for line in lines if line.strip()]:
            return found
        raise StepError(f"{self.name}: the answer has no lines; it is {shown(text)}")

    def how(self) -> Any:
        return {"lines": "with marks"} if self.marks else "lines"


class Regex(Parser):
    """What an expression finds: its named groups as an object, its one group or the whole as text. With `every`, all that it finds."""

    def __init__(self, pattern: str, gives: str = "found", *, of: str = "answer", every: bool = False) -> None:
        try:
            self.pattern = regex.compile(pattern)
        except regex.error as error:
            raise PromptError(f"the expression {pattern!r} is not valid: {error}; mend it") from error
        if self.pattern.groups > 1 and len(self.pattern.groupindex) < self.pattern.groups:
            raise PromptError(f"the expression {pattern!r} has several groups; name each: (?P<name>…)")
        one = dict[str, Any] if self.pattern.groupindex else str
        super().__init__(gives, of, list[Any] if every else one)
        self.every = every

    def read(self, text: str) -> Any:
        try:
            found = [self._value(match) for match in self._matches(text)]
        except TimeoutError as error:
            raise StepError(
                f"{self.name}: searching took more than {SEARCH_S:g} s; make the expression simpler"
            ) from error
        if not found:
            raise StepError(f"{self.name}: nothing fits {self.pattern.pattern!r} in {shown(text)}")
        return found if self.every else found[0]

    def _matches(self, text: str) -> Any:
        if self.every:
            return self.pattern.finditer(text, timeout=SEARCH_S)
        first = self.pattern.search(text, timeout=SEARCH_S)
        return [] if first is None else [first]

    def _value(self, match: Any) -> Any:
        if self.pattern.groupindex:
            return match.groupdict()
        return match[1] if self.pattern.groups else match[0]

    def how(self) -> Any:
        return {"regex": self.pattern.pattern, **({"every": True} if self.every else {})}


def first_json(text: str, step: str) -> Any:
    """In a block between ``` lines, or the first place where an object or an array begins and ends. Raises StepError."""
    decoder = json.JSONDecoder()
    for part in (*_FENCE.findall(text), text):
        starts = [at for at, character in enumerate(part) if character in "{["][:MOST_STARTS]
        for at in starts:
            try:
                return decoder.raw_decode(part, at)[0]
            except (ValueError, RecursionError):
                continue
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StepError(f"{step}: the answer holds no JSON; it is {shown(text)}") from error
