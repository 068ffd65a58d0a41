"""Questions to be answered and judged, with what their rows say beside them; from files, found by looking, and the small world.

Files: rows of JSON or a table, with a prompt, a question, messages, an instruction, or preferences (what both answers reply
to). All keys of a row become columns; what is the right answer under a usual name becomes the column `answer` too.
A row that cannot be used is named (file, line, why) and dropped, or stops the reading where `bad_rows` says `refuse`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

from dunwu.core.errors import DataError
from dunwu.core.lineage import stable_hash
from dunwu.core.recipe import PromptFileSource, PromptSource, PromptSumsSource, PromptWorldSource
from dunwu.core.records import Message
from dunwu.corpus import preferences
from dunwu.corpus.instructions import ROWS_LOOKED_AT
from dunwu.corpus.json_rows import BadRow, JsonRow, is_json_file, is_unicode, json_rows
from dunwu.corpus.pairs import shared_prompt
from dunwu.corpus.preferences import TURN_LISTS
from dunwu.corpus.sums import problems
from dunwu.corpus.table_rows import is_table_file, table_rows
from dunwu.corpus.tally import RowTally, tally_facts
from dunwu.corpus.turns import Row, messages_of, require_text_alone, transcript
from dunwu.corpus.world.prompts import practice_questions, watched_questions
from dunwu.corpus.world.questions import Question
from dunwu.tokenizer.template import validate_messages

QUESTIONS = ("prompt", "question", "instruction", "query", "problem", "input", "sQuestion", "text")
QUESTIONS += ("指令", "问题", "提问", "题目", "问", "q")
ANSWERS = (
    "answer",
    "final_answer",
    "solution",
    "lSolutions",
    "target",
    "output",
    "response",
    "completion",
    "reference",
)
ANSWERS += ("correct", "label", "答案", "回答", "输出", "a")
# Where an answer stands that is to be judged; `Prompt.columns` then has it, or several, as `completion`.
COMPLETIONS = (
    "completion",
    "completions",
    "response",
    "responses",
    "output",
    "generation",
    "prediction",
    "model_output",
)
HELD_OUT_SHARE, MOST_HELD_OUT = 0.1, 128
WATCHED_PER_KIND = 50
WATCHED_PROBLEMS = 64


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked, to be answered by the assistant, and what the row says beside it. `source`: file and row."""

    messages: tuple[Message, ...]
    columns: Mapping[str, Any]
    source: str


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """How rows of one kind are told from others, and what they ask."""

    name: str
    fits: Callable[[Row], bool]
    asked: Callable[[Row], Sequence[Message]]


class PromptReader(RowTally):
    """Iterate to get prompts; afterwards `kept`, `dropped` and `problems` say what became of the rows.

    `formats`: the format found, by file. `dropped`: rows by reason. `problems`: the first few bad rows as "file, line 7: why".
    `judged`: the rows also hold answers to be judged, which are then the column `completion` and no right answer; under this key,
    or where it is "auto" under a usual one, or as the last turn.
    """

    def __init__(self, source: PromptFileSource, *, judged: str | None = None) -> None:
        super().__init__(bad_rows=source.bad_rows)
        self.source, self.judged = source, judged

    def __iter__(self) -> Iterator[Prompt]:
        """Raises DataError for a file that cannot be read, asks nothing, or has no usable row at all."""
        self.forget()
        found = chain.from_iterable(map(self._read, _files(Path(self.source.path))))
        if self.source.cap is None:
            yield from found
        else:
            yield from _evenly(list(found), self.source.cap)

    def _read(self, path: Path) -> Iterator[Prompt]:
        rows = table_rows(path) if is_table_file(path) else json_rows(path)
        head = list(islice(rows, ROWS_LOOKED_AT))
        row_format = _detect([row.value for row in head], path, self.source.prompt)
        self.formats[path.name] = row_format.name
        before = self.kept
        for row in chain(head, rows):
            prompt = self._prompt(row, row_format, path)
            if prompt is not None:
                self.kept += 1
                yield prompt
        if self.kept == before:
            first = self.problems[0] if self.problems else "the file has no rows"
            raise DataError(f"{path}: none of the rows could be used as {row_format.name}; first: {first}")

    def _prompt(self, row: JsonRow, row_format: PromptFormat, path: Path) -> Prompt | None:
        try:
            value = _object(row.value, row_format)
            messages, said = _unanswered(row_format.asked(value))
            messages = _with_system(value, messages, self.source.system_prompt)
            _check(messages)
            if self.judged is None:
                columns = _columns(value, self.source.answer, ANSWERS, said)
            else:
                right = [key for key in ANSWERS if key not in (*COMPLETIONS, self.judged)]
                columns = _columns(value, self.source.answer, right, None) | _completion(value, self.judged, said)
        except BadRow as bad:
            self.drop(bad, f"{path}, {row.place}")
            return None
        return Prompt(messages, columns, f"{path.name}#{row.number}")


def load_prompts(sources: Iterable[PromptSource]) -> list[Prompt]:
    """The prompts of all sources, in order. Use a `PromptReader` to hear what became of a file's rows."""
    return [prompt for source in sources for prompt in prompts_of(source)]


@dataclass(frozen=True, kw_only=True)
class PromptSets:
    """Prompts to learn from, others to watch that with, and facts: `prompts`, `held_out_prompts`, and `formats`, `bad_rows`,
    `first_bad_rows` of the files."""

    learned: Sequence[Prompt]
    held_out: Sequence[Prompt]
    facts: dict[str, Any]


def load_prompt_sets(sources: Iterable[PromptSource], *, exam_questions: int) -> PromptSets:
    """All sources, with a part of each kept out: of a file some prompts by what they say; of the small world what neither
    practice nor an exam of so many questions a kind asks. No prompt is on both sides."""
    from_files: list[Prompt] = []
    learned, watched = list[Prompt](), list[Prompt]()
    readers: list[PromptReader] = []
    for source in sources:
        found = prompts_of(source)
        (from_files if isinstance(found, PromptReader) else learned).extend(found)
        readers += [found] if isinstance(found, PromptReader) else []
        watched += watched_prompts(source, exam_questions=exam_questions)
    kept_in, kept_out = held_out(from_files)
    taken = {said_in(prompt.messages) for prompt in (*watched, *kept_out)}
    learned = [prompt for prompt in (*learned, *kept_in) if said_in(prompt.messages) not in taken]
    facts: dict[str, Any] = {
        "prompts": len(learned),
        "held_out_prompts": len(watched) + len(kept_out),
        "formats": {name: kind for reader in readers for name, kind in reader.formats.items()},
        **tally_facts(readers),
    }
    return PromptSets(learned=learned, held_out=[*watched, *kept_out], facts=facts)


def prompts_of(source: PromptSource) -> Iterable[Prompt]:
    """The prompts of one source; those of a file as a `PromptReader`."""
    match source:
        case PromptFileSource():
            return PromptReader(source)
        case PromptWorldSource():
            name = f"world/{source.seed}/practice"
            return (_asked_of_world(q, f"{name}#{n}") for n, q in enumerate(practice_questions(source)))
        case PromptSumsSource():
            return _sums(source, source.problems, held_out=False)


def watched_prompts(source: PromptSource, *, exam_questions: int) -> list[Prompt]:
    """Prompts that a source has apart from those that it gives to learn from; a file has none (see `held_out`)."""
    match source:
        case PromptFileSource():
            return []
        case PromptWorldSource():
            questions = watched_questions(source, WATCHED_PER_KIND, exam_questions=exam_questions)
            return [_asked_of_world(q, f"world/{source.seed}/watched#{n}") for n, q in enumerate(questions)]
        case PromptSumsSource():
            return list(_sums(source, WATCHED_PROBLEMS, held_out=True))


def held_out(
    prompts: Sequence[Prompt], *, share: float = HELD_OUT_SHARE, most: int = MOST_HELD_OUT
) -> tuple[list[Prompt], list[Prompt]]:
    """Prompts to learn from, and those that are kept out: by what they say, so that one that is there twice is on one side alone.
    The latter are all different."""
    by_digest = {said_in(prompt.messages): prompt for prompt in reversed(prompts)}
    out = set(sorted(by_digest)[: min(int(len(by_digest) * share), most)])
    learned = [prompt for prompt in prompts if said_in(prompt.messages) not in out]
    return learned, [prompt for digest, prompt in sorted(by_digest.items()) if digest in out]


def said_in(messages: Sequence[Message]) -> str:
    """A digest of what is said, whatever its white space."""
    turns = [[m.role, " ".join(m.content.split()), [asdict(call) for call in m.tool_calls]] for m in messages]
    return stable_hash(turns)[:16]


def _sums(source: PromptSumsSource, count: int, *, held_out: bool) -> Iterator[Prompt]:
    found = problems(
        source.seed, count, source.languages, held_out=held_out, steps=source.steps, largest=source.largest
    )
    for number, problem in enumerate(found):
        columns = {"answer": problem.answer, "steps": problem.steps, "language": problem.language}
        yield Prompt(
            (Message(role="user", content=problem.question),),
            {**columns, "solution": problem.solution, "calculation": problem.calculation},
            f"sums/{source.seed}/{'watched' if held_out else 'practice'}#{number}",
        )


def _asked_of_world(question: Question, source: str) -> Prompt:
    columns = {
        "kind": question.kind,
        "language": question.language,
        "answer": question.answer,
        "grade": {
            "rule": question.grade.rule,
            "expected": list(question.grade.expected),
            "rivals": list(question.grade.rivals),
        },
    }
    return Prompt(question.messages, columns, source)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.is_file() and _is_rows(file))
        if not found:
            raise DataError(
                f"{path} holds no .json, .jsonl, .csv or .tsv file (also .gz, .zst); name the file of prompts"
            )
        return found
    if not path.is_file():
        raise DataError(f"{path} does not exist; rl.sources[].path must name a file of prompts or a folder of them")
    if not _is_rows(path):
        raise DataError(
            f"{path} is not .json, .jsonl, .csv or .tsv (also .gz, .zst); convert it, one JSON object a line"
        )
    return [path]


def _is_rows(path: Path) -> bool:
    return is_json_file(path) or is_table_file(path)


def _detect(rows: Sequence[Any], path: Path, key: str) -> PromptFormat:
    objects = [cast(Row, row) for row in rows if isinstance(row, dict)]
    if key != "auto":
        return _keyed(key)
    for row_format in FORMATS:
        if 2 * sum(row_format.fits(row) for row in objects) > len(objects) > 0:
            return row_format
    keys = sorted({str(key) for row in objects for key in row})[:12]
    raise DataError(
        f"{path} asks nothing: its keys are {keys}; rows need {', '.join(QUESTIONS[:4])} or messages, "
        "or say which key holds the prompt: prompt=KEY"
    )


def _keyed(key: str) -> PromptFormat:
    def asked(row: Row) -> Sequence[Message]:
        value = row[key]
        if isinstance(value, list):
            return messages_of(cast("list[Any]", value))
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise BadRow("has something that is no text", f"{key!r} is a {type(value).__name__}")
        return transcript(str(value)) or [Message(role="user", content=str(value).strip())]

    return PromptFormat(key, lambda row: key in row, asked)


def _instruction(row: Row) -> Sequence[Message]:
    (first,) = _keyed("instruction").asked(row)
    more = row.get("input")
    text = f"{first.content}\n\n{more.strip()}" if isinstance(more, str) and more.strip() else first.content
    return [Message(role="user", content=text)]


def _turns(row: Row) -> Sequence[Message]:
    return messages_of(next(row[key] for key in TURN_LISTS if isinstance(row.get(key), list)))


FORMATS = (
    PromptFormat("chosen and rejected", preferences.is_pair, shared_prompt),
    PromptFormat("messages", lambda row: any(isinstance(row.get(key), list) for key in TURN_LISTS), _turns),
    PromptFormat("prompt", lambda row: "prompt" in row, _keyed("prompt").asked),
    PromptFormat("instruction", lambda row: isinstance(row.get("instruction"), str), _instruction),
    *map(_keyed, QUESTIONS[1:]),
)


def _object(value: Any, row_format: PromptFormat) -> Row:
    if isinstance(value, BadRow):
        raise value
    if not isinstance(value, dict):
        raise BadRow("is not an object", f"it is a {type(value).__name__}")
    row = cast(Row, value)
    if not row_format.fits(row):
        raise BadRow(f"is not in the file's format, {row_format.name}", f"its keys are {sorted(map(str, row))[:8]}")
    require_text_alone(row)
    return row


def _unanswered(messages: Sequence[Message]) -> tuple[tuple[Message, ...], str | None]:
    """A conversation up to what was asked last, and what was answered, where the row goes on to an answer."""
    asked = max((place for place, message in enumerate(messages) if message.role in ("user", "tool")), default=-1)
    after = [message.content for message in messages[asked + 1 :] if message.content.strip()]
    return tuple(messages[: asked + 1]), after[-1] if after else None


def _with_system(row: Row, messages: tuple[Message, ...], otherwise: str) -> tuple[Message, ...]:
    if messages and messages[0].role == "system":
        return messages
    said = next((row[key] for key in ("system", "system_prompt", "系统") if isinstance(row.get(key), str)), otherwise)
    return (Message(role="system", content=said), *messages) if said.strip() else messages


def _check(messages: Sequence[Message]) -> None:
    try:
        validate_messages(messages)
    except DataError as error:
        raise BadRow("has roles out of order", str(error)) from error
    for place, message in enumerate(messages, 1):
        if not message.content.strip() and not message.tool_calls and message.role != "tool":
            raise BadRow("asks nothing", f"message {place}, from the {message.role}, is empty")
        if not is_unicode(message.content):
            raise BadRow("has text that is no Unicode", f"message {place} holds half of a surrogate pair")


def _columns(row: Row, key: str, usual: Sequence[str], said: str | None) -> dict[str, Any]:
    """All keys of the row, and its right answer as `answer`; one that is alone in a list stands by itself."""
    if key != "auto" and key not in row:
        raise BadRow(f"has no {key!r}", f"its keys are {sorted(map(str, row))[:8]}")
    name = next((name for name in usual if row.get(name) is not None), None) if key == "auto" else key
    answer = said if name is None else row[name]
    if isinstance(answer, list) and len(cast("list[Any]", answer)) == 1:
        answer = cast("list[Any]", answer)[0]
    columns = {str(key): value for key, value in row.items()}
    return columns if answer is None else {**columns, "answer": answer}


def _completion(row: Row, key: str, said: str | None) -> dict[str, Any]:
    """The answers to be judged, as a list of texts."""
    usual = COMPLETIONS if key == "auto" else (key,)
    value = next((row[name] for name in usual if row.get(name) is not None), said)
    several = cast("list[Any]", value) if isinstance(value, list) else [value]
    turns = bool(several) and all(isinstance(one, dict) for one in several)
    texts = [messages_of(several)[-1].content] if turns else several
    if not texts or not all(isinstance(text, str) for text in texts):
        what = f"none of {', '.join(usual)} is text, or a list of texts; its keys are {sorted(map(str, row))[:8]}"
        raise BadRow("has no answer to judge", what)
    return {"completion": texts}


def _evenly(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    if len(prompts) <= count:
        return list(prompts)
    return [prompts[place * len(prompts) // count] for place in range(count)]
