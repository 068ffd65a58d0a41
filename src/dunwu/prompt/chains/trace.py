"""What happened in a run, step by step: as records, as JSON, and for the terminal."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, TypeAdapter, ValidationError

from dunwu.core.errors import DataError
from dunwu.core.files import write_text
from dunwu.core.records import Message


@dataclass(kw_only=True)
class Span:
    """One step of one item. `began_s`: since the run began. `seconds`: of the whole batch that the item was in, which had `batch`
    items; waiting between attempts counts. `asked`: the conversation, of a step that asks. `failures`: of attempts that were
    followed by another. Tokens and cost of a step that holds others are theirs, summed."""

    path: str
    step: str
    kind: str
    began_s: float = 0.0
    seconds: float = 0.0
    batch: int = 1
    input: dict[str, Any] = field(default_factory=dict[str, Any])
    output: dict[str, Any] | None = None
    asked: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    model: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    failures: list[str] = field(default_factory=list[str])
    error: str | None = None
    children: "list[Span]" = field(default_factory=list["Span"])

    @property
    def retries(self) -> int:
        """Attempts after the first."""
        return len(self.failures)

    def all(self) -> "Iterator[Span]":
        """The span and all within it."""
        yield self
        for child in self.children:
            yield from child.all()


@dataclass(kw_only=True)
class Trace:
    """A run of one item. `began`: ISO 8601."""

    chain: str
    began: str
    seconds: float
    input: dict[str, Any]
    output: dict[str, Any]
    error: str | None
    spans: list[Span]

    @property
    def prompt_tokens(self) -> int:
        """Read in all steps."""
        return sum(span.prompt_tokens for span in self.spans)

    @property
    def completion_tokens(self) -> int:
        """Written in all steps."""
        return sum(span.completion_tokens for span in self.spans)

    @property
    def retries(self) -> int:
        """In all steps."""
        return sum(span.retries for one in self.spans for span in one.all())

    def to_json(self) -> str:
        """With the retries of each step counted out."""
        return json.dumps({"dunwu_trace": 1, **_as_json(self)}, ensure_ascii=False, indent=1)

    def write(self, file: Path) -> None:
        """As JSON."""
        write_text(file, self.to_json() + "\n")


def read_trace(file: Path) -> Trace:
    """Raises DataError for a file that is no trace."""
    try:
        data = json.loads(file.read_text("utf-8"))
        if not isinstance(data, dict) or data.pop("dunwu_trace", None) != 1:
            raise ValueError("it does not say that it is one")
        return TypeAdapter(Trace).validate_python(data)
    except OSError as error:
        raise DataError(f"cannot read the trace {file}: {error.strerror}; name a file that --trace wrote") from error
    except (ValueError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{file} is no trace of a chain: {reason}; name a file that --trace wrote") from error


def jsonable(value: Any) -> Any:
    """A value as a trace keeps it: anything that JSON has not is shown as Python shows it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else repr(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Message):
        return {"role": value.role, "content": value.content}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray | memoryview):
        return [jsonable(item) for item in cast("Sequence[Any]", value)]
    return repr(cast("object", value))


def rows(trace: Trace) -> list[tuple[str, str, str, str, str, str]]:
    """For a table: step, kind, seconds, tokens, retries, what it gave."""
    found: list[tuple[str, str, str, str, str, str]] = []
    for depth, span in ((depth, span) for one in trace.spans for depth, span in _deep(one, 0)):
        tokens = f"{span.prompt_tokens} + {span.completion_tokens}" if span.prompt_tokens else ""
        said = span.error or "; ".join(
            f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in (span.output or {}).items()
        )
        retries = str(span.retries) if span.retries else ""
        found.append(("  " * depth + span.step, span.kind, f"{span.seconds:.3f}", tokens, retries, said))
    return found


def _deep(span: Span, depth: int) -> Iterator[tuple[int, Span]]:
    yield depth, span
    for child in span.children:
        yield from _deep(child, depth + 1)


def _as_json(record: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in dataclasses.fields(record):
        value = getattr(record, one.name)
        nested = one.name in ("spans", "children")
        found[one.name] = [_as_json(item) for item in value] if nested else jsonable(value)
    if isinstance(record, Span):
        found["retries"] = record.retries
    return found
