"""What a worker does with a document: from raw text to a row of the corpus, or to the name of the rule that dropped it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt

from dunwu.core.records import Document
from dunwu.corpus.boilerplate import strip_boilerplate
from dunwu.corpus.clean import normalise
from dunwu.corpus.decontaminate import WHOLE_CHARS, ExamIndex, contaminated_spans, without_paragraphs
from dunwu.corpus.dedup import Signatures, signatures, text_hash
from dunwu.corpus.language import CODE, identify
from dunwu.corpus.measure import Lexemes, lexemes
from dunwu.corpus.quality import broken_rule
from dunwu.corpus.readers import Problem, SourceFile, read_file
from dunwu.corpus.redact import redact
from dunwu.corpus.shape import shape_of
from dunwu.corpus.split import section_spans
from dunwu.corpus.store import row_bytes

SAMPLE_CHARS = 200
DECONTAMINATED = "decontaminated"
LANGUAGE_FILTER = "language_filter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The switches of a corpus that a worker needs."""

    quality: bool
    boilerplate: bool
    redact: bool
    languages: frozenset[str]
    section_chars: int
    exam: ExamIndex | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Documents already read, or files still to be read, of one source of the recipe (its number is `origin`)."""

    origin: int
    documents: tuple[Document | Problem, ...] = ()
    files: tuple[SourceFile, ...] = ()
    text_key: str = "auto"
    packed_bytes: int = 0


@dataclass(slots=True, kw_only=True)
class Cleaned:
    """A document that a worker is done with. Where `rule` is set it was dropped, and there is no row."""

    origin: int
    source: str
    group: str
    bytes_in: int
    sample: str = ""  # of what was dropped
    language: str = ""
    rule: str = ""
    row: bytes = b""
    bytes_out: int = 0
    digest: bytes = b""
    sections: list[tuple[int, int, int]] = field(default_factory=list)  # start, end in characters; bytes
    sketches: Signatures | None = None  # [sections, PERMUTATIONS]
    stripped: Counter[str] = field(default_factory=Counter)
    redacted: Counter[str] = field(default_factory=Counter)
    paragraphs_cut: int = 0


Result = Cleaned | Problem


def run_task(task: Task, settings: Settings) -> list[Result]:
    """All results of a task, in the order of its documents."""
    return list(_results(task, settings))


def _results(task: Task, settings: Settings) -> Iterator[Result]:
    for document in chain(task.documents, *(read_file(file, task.text_key) for file in task.files)):
        yield document if isinstance(document, Problem) else clean_document(document, task.origin, settings)


def clean_document(document: Document, origin: int, settings: Settings) -> Cleaned:
    """Normalise, strip boilerplate, identify the language, judge, decontaminate, redact, and fingerprint a document."""
    kind = str(document.meta.get("kind", "prose"))
    raw = document.text
    cleaned = Cleaned(
        origin=origin,
        source=document.source,
        group=str(document.meta.get("group", document.source)),
        bytes_in=utf8_length(raw),
    )
    text = normalise(raw)
    if settings.boilerplate:
        text, cleaned.stripped = strip_boilerplate(text)
    text = text.replace("\f", "\n").strip()
    cleaned.language = CODE if kind == "code" else identify(text)
    cleaned.rule = _refusal(text, kind, cleaned.language, settings)
    if not cleaned.rule:
        text = _without_exam(text, cleaned, settings)
    if cleaned.rule:
        cleaned.sample = _sample(raw, settings)
        return cleaned
    if settings.redact:
        text, cleaned.redacted = redact(text)
    _fingerprint(text, cleaned, settings.section_chars)
    return cleaned


def _sample(raw: str, settings: Settings) -> str:
    """The beginning of a document as the card may show it."""
    start = raw[:SAMPLE_CHARS].encode("utf-8", "replace").decode()
    return redact(start)[0] if settings.redact else start


def utf8_length(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _refusal(text: str, kind: str, language: str, settings: Settings) -> str:
    """The rule that drops a text, or nothing."""
    if settings.languages and language not in settings.languages:
        return LANGUAGE_FILTER
    if not text.strip():
        return "almost_empty"
    return (broken_rule(shape_of(text), kind, language) or "") if settings.quality else ""


def _without_exam(text: str, cleaned: Cleaned, settings: Settings) -> str:
    """The text without what evaluation sets contain; a short document goes as a whole."""
    if settings.exam is None:
        return text
    spans = contaminated_spans(lexemes(text), settings.exam)
    if not spans:
        return text
    shorter = without_paragraphs(text, spans) if len(text) > WHOLE_CHARS else ""
    if not shorter.strip():
        cleaned.rule = DECONTAMINATED
    cleaned.paragraphs_cut = 1 if cleaned.rule else len({text.count("\n\n", 0, left) for left, _ in spans})
    return shorter


def _fingerprint(text: str, cleaned: Cleaned, section_chars: int) -> None:
    """Set what the rest of the pipeline compares and writes."""
    spans = section_spans(text, section_chars)
    found = lexemes(text)
    cleaned.sections = [(start, end, utf8_length(text[start:end])) for start, end in spans]
    cleaned.sketches = signatures(found.hashes, _section_borders(found, spans))
    cleaned.digest = text_hash(text)
    cleaned.row = row_bytes(text, cleaned.source, cleaned.language)
    cleaned.bytes_out = sum(size for _, _, size in cleaned.sections)


def _section_borders(found: Lexemes, spans: list[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """Number of the first lexeme of each section, and of all lexemes at the end: `[sections + 1]`."""
    starts = np.array([start for start, _ in spans] + [1 << 62], np.int64)
    return np.searchsorted(found.starts, starts).astype(np.int64)
