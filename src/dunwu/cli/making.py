"""`dunwu make`: instruction data, made with a model of this machine or behind a URL."""

import contextlib
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dunwu.chat.bridge import Blocking
from dunwu.chat.ledger import Price
from dunwu.chat.protocol import Chat
from dunwu.chat.remote import RemoteChat
from dunwu.chat.router import Retrying
from dunwu.cli.making_options import Making
from dunwu.cli.talking import load, model_folder
from dunwu.core.errors import DataError, ModelError, RecipeError
from dunwu.core.files import sha256_file
from dunwu.core.lineage import HASH_LENGTH, stable_hash
from dunwu.core.progress import TerminalProgress
from dunwu.core.screen import harmless
from dunwu.core.units import parse_count, parse_duration
from dunwu.corpus.decontaminate import ExamIndex, build_index, read_exam_texts
from dunwu.prompt.making.asking import Budget
from dunwu.prompt.making.documents import Check, FromDocuments
from dunwu.prompt.making.evolve import Evolve
from dunwu.prompt.making.how import How, Maker, holds_schema
from dunwu.prompt.making.journal import head_of
from dunwu.prompt.making.passages import Passages, read_passages
from dunwu.prompt.making.run import Wanted, make_data, require_new_or_own
from dunwu.prompt.making.seeds import Seeds, read_seeds
from dunwu.prompt.making.self_instruct import SelfInstruct
from dunwu.prompt.making.unnatural import SHOWN, Unnatural
from dunwu.train.signals import StopSignal


def qa(
    documents: Path, given: Making, *, pairs: int, passage_chars: int, check: Check, with_passage: bool, redact: bool
) -> None:
    """Questions and answers of documents."""
    wanted, (exam, exam_hash) = _wanted(given), _exam(given)
    passages = read_passages(
        documents.expanduser(),
        chars=passage_chars,
        seed=given.seed,
        language=given.language,
        redacted=redact,
        exam=exam,
    )
    print(_passages_line(documents, passages))

    def maker(how: How) -> Maker:
        return FromDocuments(passages=passages, how=how, pairs=pairs, check=check, with_passage=with_passage)

    _make(maker, passages.language, given, wanted, exam, exam_hash)


def self_instruct(seeds: Path, given: Making) -> None:
    """Tasks of tasks."""
    wanted, (exam, exam_hash) = _wanted(given), _exam(given)
    found = _seeds(seeds, given, at_least=1)
    _make(
        lambda how: SelfInstruct(seeds=found, how=how, seed=given.seed), found.language, given, wanted, exam, exam_hash
    )


def unnatural(seeds: Path, given: Making, *, paraphrases: int) -> None:
    """Tasks with constraints of tasks."""
    wanted, (exam, exam_hash) = _wanted(given), _exam(given)
    found = _seeds(seeds, given, at_least=SHOWN)

    def maker(how: How) -> Maker:
        return Unnatural(seeds=found, how=how, paraphrases=paraphrases, seed=given.seed)

    _make(maker, found.language, given, wanted, exam, exam_hash)


def evolve(instructions: Path, given: Making, *, generations: int) -> None:
    """Harder instructions of instructions."""
    wanted, (exam, exam_hash) = _wanted(given), _exam(given)
    found = _seeds(instructions, given, at_least=1)

    def maker(how: How) -> Maker:
        return Evolve(seeds=found, how=how, generations=generations, seed=given.seed)

    _make(maker, found.language, given, wanted, exam, exam_hash)


def _make(
    maker: Callable[[How], Maker],
    language: str,
    given: Making,
    wanted: Wanted,
    exam: ExamIndex | None,
    exam_hash: str,
) -> None:
    """Make the rows and say what came of it. Raises DataError where there is not one."""
    with _partner(given) as (chat, name), StopSignal() as stop, TerminalProgress() as progress:
        how = How(
            language=language,
            structured=_structured(given, wanted, chat),
            temperature=given.temperature,
            answer_tokens=given.max_tokens,
        )
        progress.start("making")
        summary = make_data(
            maker(how),
            how,
            chat,
            replace(wanted, model=name),
            exam=exam,
            exam_hash=exam_hash,
            progress=progress,
            stopping=lambda: stop.requested,
        )
        progress.finish()
    text = harmless("\n".join([*summary.lines(), f"what was dropped, with samples: {wanted.folder / 'summary.json'}"]))
    if stop.requested:
        print(text)
        raise stop.interrupted(f"{summary.rows} rows are in {wanted.out}; the same command goes on")
    if not summary.rows:
        raise DataError(f"no row was made: {text}")
    print(f"{text}\nrows     {wanted.out}")


def _wanted(given: Making) -> Wanted:
    """Raises what can be refused before anything is read or asked."""
    wanted = Wanted(
        out=given.out.expanduser(),
        rows=parse_count(given.rows),
        model=given.model,
        seed=given.seed,
        similar=given.similar,
        budget=Budget(
            tokens=None if given.budget_tokens is None else parse_count(given.budget_tokens),
            cost=given.budget_cost,
            seconds=None if given.budget_time is None else parse_duration(given.budget_time),
        ),
        price=_price(given.price),
        at_a_time=given.at_a_time,
        anew=given.anew,
    )
    if given.at_a_time < 1:
        raise RecipeError(f"--at-a-time {given.at_a_time}; ask at least 1 at a time")
    How(language="en", temperature=given.temperature, answer_tokens=given.max_tokens)
    require_new_or_own(wanted)
    return wanted


def _price(text: str | None) -> Price | None:
    if text is None:
        return None
    try:
        read, written = (float(part) for part in text.split(","))
    except ValueError as error:
        raise RecipeError(
            f"--price {text!r} must be two numbers, of a million tokens read and written, such as 0.5,1.5"
        ) from error
    return Price(prompt=read, completion=written)


def _exam(given: Making) -> tuple[ExamIndex | None, str]:
    """What may not be made, and what names it."""
    if not given.decontaminate:
        return None, ""
    index = build_index(read_exam_texts(str(path.expanduser()) for path in given.decontaminate))
    if index.too_short:
        print(f"{index.too_short} of {index.texts} evaluation texts are too short to be looked for")
    return index, stable_hash([sha256_file(path.expanduser()) for path in given.decontaminate])[:HASH_LENGTH]


def _seeds(path: Path, given: Making, *, at_least: int) -> Seeds:
    found = read_seeds(path.expanduser(), at_least=at_least, language=given.language)
    passed_over = f"; {found.passed_over} rows are passed over" if found.passed_over else ""
    print(harmless("\n".join([f"{path}: {len(found.seeds)} tasks ({found.language}){passed_over}", *found.problems])))
    return found


def _passages_line(documents: Path, found: Passages) -> str:
    lines = [f"{documents}: {len(found.passages)} passages of {found.documents} documents ({found.language})"]
    if found.dropped:
        lines.append("left out: " + ", ".join(f"{reason} {count}" for reason, count in found.dropped.most_common()))
    return harmless("\n".join([*lines, *found.problems]))


def _structured(given: Making, wanted: Wanted, chat: Chat) -> bool:
    """Whether answers are held to a schema: as the user says, as it was begun, or as a try shows."""
    if given.json is not None:
        return given.json
    begun: dict[str, Any] = dict(head_of(wanted.folder / "journal.jsonl"))
    if "structured" in begun and not wanted.anew:
        return bool(begun["structured"])
    return holds_schema(chat)


@contextlib.contextmanager
def _partner(given: Making) -> Generator[tuple[Chat, str]]:
    """Who is asked, and the name that rows know it by: of a model of this machine, with the hash of where it comes from."""
    if given.url is not None:
        remote = Blocking(Retrying(RemoteChat(given.url, given.model, key_variable=given.key_env)))
        try:
            yield remote, given.model
        finally:
            remote.close()
        return
    partner = load(given.model)
    if partner.instruction_tuned is False:
        raise ModelError(f"{given.model} was not tuned to answer, it continues texts; give a model that was")
    facts = model_folder(given.model) / "dunwu.json"
    mark = f"@{sha256_file(facts)[:HASH_LENGTH]}" if facts.is_file() else ""
    yield partner, f"{partner.name}{mark}"
