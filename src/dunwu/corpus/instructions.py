"""Instruction files → examples: Alpaca, ShareGPT, `messages`, prompt/completion; the format is found by looking at the rows.

A row that cannot be used is named (file, line, why) and dropped, or stops the reading where `bad_rows` says `refuse`.
Files: .json (a list) and .jsonl, each also .gz or .zst, UTF-8 or UTF-16. Rows are streamed, never the whole file.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

from dunwu.core.errors import DataError
from dunwu.core.recipe import SftFileSource
from dunwu.core.records import Example, Message, Role
from dunwu.corpus.json_rows import BadRow, JsonRow, is_json_file, is_unicode, json_rows
from dunwu.tokenizer.template import validate_messages

Row = Mapping[str, Any]
ROWS_LOOKED_AT = 200
PROBLEMS_KEPT = 20

ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("system", "系统"), "system"),
    **dict.fromkeys(("user", "human", "用户", "人类", "问"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "bing", "bard", "助手", "答"), "assistant"),
}
TURN_LISTS = ("messages", "conversations", "conversation", "对话")
INSTRUCTIONS = ("instruction", "instruction_zh", "指令", "任务")
INPUTS = ("input", "input_zh", "context", "输入")
OUTPUTS = ("output", "output_zh", "response", "输出", "回复", "回答", "答案")
# (question, answer) in files that name them otherwise; Firefly has input and target
PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "output"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("input", "target"),
    ("input", "output"),
    ("问题", "答案"),
    ("问题", "回答"),
    ("提问", "回答"),
    ("q", "a"),
    ("问", "答"),
)
NOTHING = frozenset({"", "<noinput>", "<nooutput>", "<无输入>", "<无输出>", "<没有输入>", "<no input>"})


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How rows of one kind are told from others, and what conversations they hold."""

    name: str
    fits: Callable[[Row], bool]
    conversations: Callable[[Row], list[tuple[Message, ...]]]


class InstructionReader:
    """Iterate to get examples; afterwards `kept`, `dropped` and `problems` say what became of the rows.

    `formats`: the format found, by file. `dropped`: rows by reason. `problems`: the first few bad rows as "file, line 7: why".
    """

    def __init__(self, source: SftFileSource) -> None:
        self.source = source
        self.kept = 0
        self.formats: dict[str, str] = {}
        self.dropped: Counter[str] = Counter()
        self.problems: list[str] = []

    def __iter__(self) -> Iterator[Example]:
        """Raises DataError for a file that cannot be read, is no instruction file, or has no usable row at all."""
        self.kept, self.formats, self.dropped, self.problems = 0, {}, Counter(), []
        for path in _files(Path(self.source.path)):
            yield from self._read(path)

    def _read(self, path: Path) -> Iterator[Example]:
        rows = json_rows(path)
        head = list(islice(rows, ROWS_LOOKED_AT))
        row_format = _detect([row.value for row in head], path)
        self.formats[path.name] = row_format.name
        kept_before = self.kept
        for row in chain(head, rows):
            yield from self._examples(row, row_format, path)
        if self.kept == kept_before:
            raise DataError(
                f"{path}: none of the rows could be used as {row_format.name} ({_reasons(self.dropped)}); "
                f"first: {self.problems[0] if self.problems else 'the file has no rows'}"
            )

    def _examples(self, row: JsonRow, row_format: RowFormat, path: Path) -> Iterator[Example]:
        try:
            conversations = _conversations(row.value, row_format)
        except BadRow as bad:
            self._drop(bad, f"{path}, {row.place}")
            return
        for messages in conversations:
            self.kept += 1
            yield Example(messages=messages, source=f"{path.name}#{row.number}")

    def _drop(self, bad: BadRow, place: str) -> None:
        problem = f"{place}: {bad}"
        if self.source.bad_rows == "refuse":
            raise DataError(f"{problem}; mend the row, or set bad_rows=drop to go on without it")
        self.dropped[bad.reason] += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(problem)


def read_instructions(source: SftFileSource) -> Iterator[Example]:
    """The examples of an instruction file, or of all .json/.jsonl files in a folder, in order. See `InstructionReader`."""
    return iter(InstructionReader(source))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and is_json_file(file))
        if not files:
            raise DataError(f"{path} holds no .json or .jsonl file (also .gz, .zst); name the instruction file")
        return files
    if not path.is_file():
        raise DataError(f"{path} does not exist; sft.sources[].path must name an instruction file or a folder of them")
    if not is_json_file(path):
        raise DataError(f"{path} is not .json or .jsonl (also .gz, .zst); convert it, one JSON object a line")
    return [path]


def _detect(rows: Sequence[Any], path: Path) -> RowFormat:
    objects = [cast(Row, row) for row in rows if isinstance(row, dict)]
    if sum(map(_is_preference, objects)) * 2 > len(objects):
        raise DataError(
            f"{path} holds preferences (chosen/rejected or labelled answers), not instructions; "
            "name a file whose rows each have one answer to learn"
        )
    counts = [(sum(row_format.fits(row) for row in objects), row_format) for row_format in FORMATS]
    best, row_format = max(counts, key=lambda item: item[0])
    if best == 0:
        if not objects:
            raise DataError(
                f"{path} is no instruction file: {_what_it_holds(rows)}; write one object a line, or a list of objects"
            )
        raise DataError(
            f"{path} is in no known instruction format: its keys are {_keys(objects)}; "
            "rename them to instruction/input/output, prompt/completion, messages (role, content) "
            "or conversations (from, value)"
        )
    return row_format


def _what_it_holds(rows: Sequence[Any]) -> str:
    return f"none of its rows is an object; the first {_not_object(rows[0])}" if rows else "it is empty"


def _keys(objects: Sequence[Row]) -> list[str]:
    return sorted({str(key) for row in objects for key in row})[:12]


def _not_object(value: Any) -> str:
    return str(value) if isinstance(value, BadRow) else f"is a {type(value).__name__}"


def _is_preference(row: Row) -> bool:
    labelled = isinstance(row.get("label"), bool) and any(key in row for key in TURN_LISTS)
    return labelled or "rejected" in row or {"output_1", "output_2"} <= row.keys()


def _conversations(value: Any, row_format: RowFormat) -> list[tuple[Message, ...]]:
    if isinstance(value, BadRow):
        raise value
    if not isinstance(value, dict):
        raise BadRow("is not an object", f"it is a {type(value).__name__}")
    row = cast(Row, value)
    if not row_format.fits(row):
        raise BadRow(f"is not in the file's format, {row_format.name}", f"its keys are {sorted(map(str, row))[:8]}")
    conversations = row_format.conversations(row)
    for messages in conversations:
        _check(messages)
    return conversations


def _check(messages: Sequence[Message]) -> None:
    try:
        validate_messages(messages)
    except DataError as error:
        raise BadRow("has roles out of order", str(error)) from error
    if messages[-1].role != "assistant":
        raise BadRow("does not end with an answer", f"its last message is from the {messages[-1].role}")
    for place, message in enumerate(messages, 1):
        if message.content.strip().lower() in NOTHING:
            what = "answer" if message.role == "assistant" else "question"
            raise BadRow(f"has an empty {what}", f"message {place}")
        if not is_unicode(message.content):
            raise BadRow("has text that is no Unicode", f"message {place} holds half of a surrogate pair")


def _first(row: Row, keys: Sequence[str]) -> str | None:
    return next((key for key in keys if key in row), None)


def _text(row: Row, key: str | None) -> str:
    value = "" if key is None else row.get(key)
    if value is None or value != value:  # NaN: what pandas writes for an empty cell
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRow("has something that is no text", f"{key!r} is a {type(value).__name__}")
    text = str(value)
    return "" if text.strip().lower() in NOTHING else text


def _system(row: Row) -> tuple[Message, ...]:
    text = _text(row, _first(row, ("system", "system_prompt", "系统")))
    return (Message(role="system", content=text),) if text else ()


# ---- Alpaca: instruction, input, output; LLaMA-Factory adds system and history


def _is_alpaca(row: Row) -> bool:
    return _first(row, INSTRUCTIONS) is not None and _first(row, OUTPUTS) is not None


def _alpaca(row: Row) -> list[tuple[Message, ...]]:
    given = (_text(row, _first(row, INSTRUCTIONS)), _text(row, _first(row, INPUTS)))
    return [
        (
            *_system(row),
            *_history(row.get("history")),
            Message(role="user", content="\n\n".join(part.strip("\n") for part in given if part)),
            Message(role="assistant", content=_text(row, _first(row, OUTPUTS))),
        )
    ]


def _history(history: Any) -> Iterator[Message]:
    for turn in history or ():
        match turn:
            case [str(question), str(answer)]:
                yield Message(role="user", content=question)
                yield Message(role="assistant", content=answer)
            case _:
                raise BadRow("has a history that is no list of [question, answer]", repr(turn)[:80])


# ---- Self-Instruct seeds: one instruction, several instances


def _is_self_instruct(row: Row) -> bool:
    return _first(row, INSTRUCTIONS) is not None and isinstance(row.get("instances"), list)


def _self_instruct(row: Row) -> list[tuple[Message, ...]]:
    instances = [{**row, **instance} for instance in row["instances"] if isinstance(instance, dict)]
    if not instances or len(instances) < len(row["instances"]):
        raise BadRow("has no proper instances", "`instances` must be a list of objects with input and output")
    return [conversation for instance in instances for conversation in _alpaca(instance)]


# ---- messages (role, content) and ShareGPT (from, value)


def _is_turns(row: Row) -> bool:
    return any(isinstance(row.get(key), list) for key in TURN_LISTS)


def _turns(row: Row) -> list[tuple[Message, ...]]:
    turns = next(row[key] for key in TURN_LISTS if isinstance(row.get(key), list))
    messages = tuple(message for turn in turns for message in _turn(turn))
    if messages and messages[0].role == "system":
        return [messages if messages[0].content.strip() else messages[1:]]
    return [(*_system(row), *messages)]


def _turn(turn: Any) -> list[Message]:
    match turn:
        case {"role": str(role), "content": content} | {"from": str(role), "value": content}:
            return [Message(role=_role(role), content=_content(content))]
        case {"human": str(question), "assistant": str(answer)}:
            return [Message(role="user", content=question), Message(role="assistant", content=answer)]
        case _:
            keys = sorted(map(str, turn)) if isinstance(turn, dict) else type(turn).__name__
            raise BadRow("has a turn without role and content", f"it has {keys}")


def _role(name: str) -> Role:
    role = ROLES.get(name.strip().lower())
    if role is None:
        raise BadRow(f"has the role {name[:40]!r}", "known are system, user (human) and assistant (gpt)")
    return role


def _content(content: Any) -> str:
    match content:
        case str():
            return content
        case [*parts] if parts and all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
            return "".join(str(part.get("text", "")) for part in parts)
        case _:
            raise BadRow("has something that is no text", f"content is a {type(content).__name__}")


# ---- prompt/completion and its cousins


def _pair_keys(row: Row) -> tuple[str, str] | None:
    return next(((question, answer) for question, answer in PAIRS if question in row and answer in row), None)


def _pair(row: Row) -> list[tuple[Message, ...]]:
    question, answer = cast(tuple[str, str], _pair_keys(row))
    return [(*_system(row), *_said(row, question, "user"), *_said(row, answer, "assistant"))]


def _said(row: Row, key: str, role: Role) -> list[Message]:
    if isinstance(row[key], list):  # TRL's conversational form: each side is a list of messages
        return [message for turn in row[key] for message in _turn(turn)]
    return [Message(role=role, content=_text(row, key))]


FORMATS = (
    RowFormat("messages or ShareGPT", _is_turns, _turns),
    RowFormat("Self-Instruct", _is_self_instruct, _self_instruct),
    RowFormat("Alpaca", _is_alpaca, _alpaca),
    RowFormat("prompt and completion", lambda row: _pair_keys(row) is not None, _pair),
)


def _reasons(dropped: Counter[str]) -> str:
    return ", ".join(f"{count} row(s): {reason}" for reason, count in dropped.most_common(5)) or "no rows"
