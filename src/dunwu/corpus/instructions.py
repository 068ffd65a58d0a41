"""Instruction files → examples: Alpaca, ShareGPT, `messages`, prompt/completion, preferences; found by looking at the rows.

A row that cannot be used is named (file, line, why) and dropped, or stops the reading where `bad_rows` says `refuse`.
Files: .json (a list) and .jsonl, each also .gz or .zst, UTF-8 or UTF-16. Rows are streamed, never the whole file.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

from dunwu.core.errors import DataError
from dunwu.core.recipe import SftFileSource
from dunwu.core.records import Example, Message
from dunwu.corpus.instruction_formats import FORMATS, NOTHING, RowFormat
from dunwu.corpus.json_rows import BadRow, JsonRow, is_json_file, is_unicode, json_rows
from dunwu.corpus.phrasings import Phrasings, load_phrasings
from dunwu.corpus.preferences import Chosen, NotWanted
from dunwu.corpus.tally import RowTally
from dunwu.corpus.turns import Row, require_results, require_text_alone, tools_of
from dunwu.tokenizer.template import validate_messages

ROWS_LOOKED_AT = 200
END_MARKERS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "</s>")


class InstructionReader(RowTally):
    """Iterate to get examples; afterwards `kept`, `dropped`, `not_wanted` and `problems` say what became of the rows.

    `formats`: the format found, by file. `dropped`: rows by reason. `not_wanted`: rows whose answers were judged bad, by what
    they hold. `problems`: the first few bad rows as "file, line 7: why". `end_markers`: answers that ended with the name of a
    token that ends a text, which was taken off. `seed` chooses the phrasing of a row, where the source has phrasings.
    """

    def __init__(self, source: SftFileSource, *, seed: int = 0) -> None:
        super().__init__(bad_rows=source.bad_rows)
        self.source = source
        self.end_markers = 0
        self._phrasings: Phrasings | None = load_phrasings(source, seed) if source.phrasings else None

    def __iter__(self) -> Iterator[Example]:
        """Raises DataError for a file that cannot be read, is no instruction file, or has no usable row at all."""
        self.forget()
        self.end_markers = 0
        for path in row_files(Path(self.source.path)):
            yield from self._read(path)

    def _read(self, path: Path) -> Iterator[Example]:
        rows = json_rows(path)
        head = list(islice(rows, ROWS_LOOKED_AT))
        values = [row.value for row in head]
        row_format = _detect(values, path) if self._phrasings is None else self._phrased(values, path, self._phrasings)
        self.formats[path.name] = row_format.name
        kept_before = self.kept
        for row in chain(head, rows):
            yield from self._examples(row, row_format, path)
        if self.kept == kept_before:
            first = self.problems[0] if self.problems else "the file has no rows"
            reasons = _reasons(self.dropped + self.not_wanted)
            raise DataError(f"{path}: none of the rows could be used as {row_format.name} ({reasons}); first: {first}")

    def _phrased(self, values: Sequence[Any], path: Path, phrasings: Phrasings) -> RowFormat:
        phrasings.require_columns(_objects(values), path)
        return RowFormat(f"phrasings {', '.join(self.source.phrasings)}", phrasings.fits, lambda row: [])

    def _examples(self, row: JsonRow, row_format: RowFormat, path: Path) -> Iterator[Example]:
        name = f"{path.name}#{row.number}"
        try:
            value = require_object(row.value, row_format.name, row_format.fits)
            if self._phrasings is not None:
                conversations = [Chosen(self._phrasings.conversation(value, name))]
            else:
                conversations = row_format.conversations(value)
            conversations = [self._without_end_markers(conversation) for conversation in conversations]
            tools = tools_of(value)
            open_end = row_format.open_calls or self.source.open_calls == "keep"
            for conversation in conversations:
                check_conversation(conversation.messages, open_end=open_end)
        except BadRow as bad:
            self.drop(bad, f"{path}, {row.place}")
            return
        except NotWanted as why:
            self.not_wanted[str(why)] += 1
            return
        for conversation in conversations:
            self.kept += 1
            yield Example(messages=conversation.messages, source=name, tools=tools, only_read=conversation.only_read)

    def _without_end_markers(self, conversation: Chosen) -> Chosen:
        """Answers without an end of text that some files spell out: the chat template writes its own."""
        messages, count = without_end_markers(conversation.messages)
        self.end_markers += count
        return replace(conversation, messages=messages)


def without_end_markers(messages: Sequence[Message]) -> tuple[tuple[Message, ...], int]:
    """The messages, their answers without the name of a token that ends a text, and how many ended with one."""
    found, count = list(messages), 0
    for place, message in enumerate(found):
        said = message.content.rstrip()
        if message.role == "assistant" and said.endswith(END_MARKERS):
            while marker := next((marker for marker in END_MARKERS if said.endswith(marker)), ""):
                said = said.removesuffix(marker).rstrip()
            found[place] = replace(message, content=said)
            count += 1
    return tuple(found), count


def read_instructions(source: SftFileSource, *, seed: int = 0) -> Iterator[Example]:
    """The examples of an instruction file, or of all .json/.jsonl files in a folder, in order. See `InstructionReader`."""
    return iter(InstructionReader(source, seed=seed))


def row_files(path: Path, key: str = "sft.sources[].path") -> list[Path]:
    """The file, or the .json and .jsonl files of a folder. Raises DataError naming the recipe's `key` where there is none."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and is_json_file(file))
        if not files:
            raise DataError(f"{path} holds no .json or .jsonl file (also .gz, .zst); name the file of rows")
        return files
    if not path.is_file():
        raise DataError(f"{path} does not exist; {key} must name a file of rows or a folder of them")
    if not is_json_file(path):
        raise DataError(f"{path} is not .json or .jsonl (also .gz, .zst); convert it, one JSON object a line")
    return [path]


def _detect(rows: Sequence[Any], path: Path) -> RowFormat:
    objects = _objects(rows)
    found = Counter(place for row in objects if (place := _first_fitting(row)) is not None)
    if not found:
        if not objects:
            raise DataError(
                f"{path} is no instruction file: {_what_it_holds(rows)}; write one object a line, or a list of objects"
            )
        raise DataError(
            f"{path} is in no known instruction format: its keys are {_keys(objects)}; "
            "rename them to instruction/input/output, prompt/completion, messages (role, content) "
            "or conversations (from, value), or give phrasings that use them"
        )
    return FORMATS[found.most_common(1)[0][0]]


def _first_fitting(row: Row) -> int | None:
    return next((place for place, row_format in enumerate(FORMATS) if row_format.fits(row)), None)


def _objects(rows: Sequence[Any]) -> list[Row]:
    return [cast(Row, row) for row in rows if isinstance(row, dict)]


def _what_it_holds(rows: Sequence[Any]) -> str:
    return f"none of its rows is an object; the first {_not_object(rows[0])}" if rows else "it is empty"


def _keys(objects: Sequence[Row]) -> list[str]:
    return sorted({str(key) for row in objects for key in row})[:12]


def _not_object(value: Any) -> str:
    return str(value) if isinstance(value, BadRow) else f"is a {type(value).__name__}"


def require_object(value: Any, name: str, fits: Callable[[Row], bool]) -> Row:
    """The row, if it is one of the format of that name. Raises BadRow."""
    if isinstance(value, BadRow):
        raise value
    if not isinstance(value, dict):
        raise BadRow("is not an object", f"it is a {type(value).__name__}")
    row = cast(Row, value)
    if not fits(row):
        raise BadRow(f"is not in the file's format, {name}", f"its keys are {sorted(map(str, row))[:8]}")
    require_text_alone(row)
    return row


def check_conversation(messages: Sequence[Message], *, open_end: bool = False) -> None:
    """Raise BadRow for a conversation that cannot be learned. `open_end`: it may end with a call of tools."""
    if not messages:
        raise BadRow("has roles out of order", "a conversation has no messages")
    _require_each_said(messages)
    try:
        require_results(messages, open_end=open_end)
        validate_messages(messages)
    except DataError as error:
        raise BadRow("has roles out of order", str(error)) from error
    if messages[-1].role != "assistant":
        raise BadRow("does not end with an answer", f"its last message is from the {messages[-1].role}")


def _require_each_said(messages: Sequence[Message]) -> None:
    for place, message in enumerate(messages, 1):
        silent = message.content.strip().lower() in NOTHING
        if silent and not message.tool_calls and message.role != "tool":
            what = "answer" if message.role == "assistant" else "question"
            raise BadRow(f"has an empty {what}", f"message {place}")
        written = (message.content, *(part for call in message.tool_calls for part in (call.name, call.arguments)))
        if not all(map(is_unicode, written)):
            raise BadRow("has text that is no Unicode", f"message {place} holds half of a surrogate pair")


def _reasons(dropped: Counter[str]) -> str:
    return ", ".join(f"{count} row(s): {reason}" for reason, count in dropped.most_common(5)) or "no rows"
