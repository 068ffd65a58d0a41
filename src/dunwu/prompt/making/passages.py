"""A folder of documents → passages, each with its place: clean text of some length, none of them twice, nothing of evaluation files."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dunwu.core.errors import DataError
from dunwu.core.records import Document
from dunwu.corpus import boilerplate
from dunwu.corpus.clean import normalise
from dunwu.corpus.decontaminate import ExamIndex, contaminated_spans
from dunwu.corpus.dedup import text_hash
from dunwu.corpus.language import CODE, UNKNOWN, identify
from dunwu.corpus.measure import lexemes
from dunwu.corpus.quality import broken_rule
from dunwu.corpus.readers import READERS, Problem, list_files, read_file, require_packages
from dunwu.corpus.redact import redact
from dunwu.corpus.shape import shape_of
from dunwu.corpus.split import section_spans
from dunwu.prompt.making.rules import length
from dunwu.prompt.making.similar import Sketches

PASSAGE_CHARS = 1500
LEAST_WORDS = 12  # of a passage; a heading alone answers nothing
_SIMILAR = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A part of a document. `start`, `end`: characters of the document as it was cleaned; `page`: of a PDF, from 1, where it begins;
    0 elsewhere."""

    text: str
    document: str
    start: int
    end: int
    page: int
    language: str

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.text.encode("utf-8", "replace")).hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passages:
    """Passages in the order in which they are asked about. `dropped`: documents and passages by the reason why they were left out;
    `problems`: the first files that could not be read, and why."""

    passages: tuple[Passage, ...]
    documents: int
    language: str
    dropped: Counter[str] = field(default_factory=Counter[str])
    problems: tuple[str, ...] = ()


def read_passages(
    root: Path,
    *,
    chars: int = PASSAGE_CHARS,
    seed: int = 0,
    language: str = "auto",
    redacted: bool = True,
    exam: ExamIndex | None = None,
) -> Passages:
    """The passages of all documents below `root`, shuffled by the seed. `language` "auto": what most of the text is in; other passages
    are left out. `redacted`: without personal data.

    Raises DataError where there is no document, none that can be read, or none with a passage; MissingExtraError where a reader lacks.
    """
    files = list_files(root, tuple(f"**/*{suffix}{packed}" for suffix in READERS for packed in ("", ".gz", ".zst")), ())
    known = [file for file in files if file.extension in READERS]
    if not known:
        raise DataError(f"{root} holds no document that can be read; readable are {' '.join(READERS)} (also .gz, .zst)")
    require_packages(known)
    found: list[Passage] = []
    dropped: Counter[str] = Counter()
    problems: list[str] = []
    documents = pages = 0
    for file in known:
        pages = 0
        for read in read_file(file):
            if isinstance(read, Problem):
                problems.append(f"{read.source}: {read.reason}")
                continue
            documents += 1
            found += _passages(read, chars, redacted, pages if file.extension == ".pdf" else None, dropped)
            pages += read.text.count("\f")
    if problems:
        dropped["unreadable"] += len(problems)
    wanted = _main_language(found) if language == "auto" else language
    kept = list(_kept(found, wanted, exam, dropped))
    if not kept:
        why = ", ".join(f"{reason} {count}" for reason, count in dropped.most_common()) or "they are empty"
        first = f"; first: {problems[0]}" if problems else ""
        raise DataError(f"{root}: none of {len(known)} files gave a passage to ask about ({why}){first}")
    random.Random(f"passages {seed}").shuffle(kept)
    return Passages(
        passages=tuple(kept), documents=documents, language=wanted, dropped=dropped, problems=tuple(problems[:20])
    )


def _passages(
    document: Document, chars: int, redacted: bool, pages_before: int | None, dropped: Counter[str]
) -> Iterator[Passage]:
    """Cut where a reader would pause. Form feeds stay until pages are counted."""
    text = normalise(document.text)
    for rule in boilerplate.RULES:
        text = rule.apply(text)
    kind = str(document.meta.get("kind", "prose"))
    plain = text.replace("\f", "\n")
    if not plain.strip():
        dropped["empty"] += 1
        return
    if (fault := broken_rule(shape_of(plain), kind, CODE if kind == "code" else identify(plain))) is not None:
        dropped[fault] += 1
        return
    for first, last in section_spans(plain, chars):
        part = plain[first:last].strip()
        start = first + plain[first:last].find(part)
        end = start + len(part)
        part = redact(part)[0] if redacted else part
        if length(part) < LEAST_WORDS:
            dropped["short_passage"] += 1
            continue
        yield Passage(
            text=part,
            document=document.source,
            start=start,
            end=end,
            page=0 if pages_before is None else 1 + pages_before + text.count("\f", 0, start),
            language=CODE if kind == "code" else identify(part),
        )


def _main_language(passages: list[Passage]) -> str:
    sizes: Counter[str] = Counter()
    for passage in passages:
        if passage.language not in (UNKNOWN, CODE):
            sizes[passage.language] += len(passage.text) * (3 if passage.language in ("zh", "ja") else 1)
    return sizes.most_common(1)[0][0] if sizes else "en"


def _kept(passages: list[Passage], language: str, exam: ExamIndex | None, dropped: Counter[str]) -> Iterator[Passage]:
    seen: set[bytes] = set()
    sketches = Sketches(_SIMILAR)
    for passage in passages:
        digest = text_hash(passage.text)
        reason = ""
        if passage.language not in (language, UNKNOWN, CODE):
            reason = "other_language_passage"
        elif digest in seen or sketches.like(passage.text):
            reason = "duplicate_passage"
        elif exam is not None and contaminated_spans(lexemes(passage.text), exam):
            reason = "decontaminated_passage"
        if reason:
            dropped[reason] += 1
            continue
        seen.add(digest)
        sketches.add(passage.text)
        yield passage
