"""Documents in, corpus out: read, clean and fingerprint in workers; then find duplicates, split, and write.

Two passes, so that memory does not grow with the text: the first leaves cleaned rows on disk and a fingerprint of each
section beside them; the second decides by the fingerprints alone, and copies the rows to where they belong.
"""

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from dunwu.core.errors import DataError, DiskError
from dunwu.core.files import disk_errors, sha256_file, write_json
from dunwu.core.progress import Progress
from dunwu.core.recipe import CorpusSection, CorpusSource, FolderSource, PythonDocsSource, WorldSource
from dunwu.core.records import Document
from dunwu.corpus.card import CardBuilder, CorpusFacts, SourceTally
from dunwu.corpus.decide import Decision, decide
from dunwu.corpus.decontaminate import build_index, read_exam_texts
from dunwu.corpus.deliver import Delivered, deliver
from dunwu.corpus.parallel import ordered_map
from dunwu.corpus.pool import HELDOUT, TRAIN, Pool, PoolWriter, pool_writer
from dunwu.corpus.python_docs import python_documents
from dunwu.corpus.readers import READERS, Problem, SourceFile, list_files, read_file, require_packages
from dunwu.corpus.split import MIN_SECTION_CHARS, SECTION_CHARS
from dunwu.corpus.store import row_bytes
from dunwu.corpus.work import LANGUAGE_FILTER, Cleaned, Result, Settings, Task, run_task, utf8_length
from dunwu.corpus.world import world_documents

_BATCH_CHARS = 1_000_000
_ROW_CHARS = 200  # what a row costs beside its text, so that millions of empty or bad ones are no single batch
_BATCH_FILES = 64
_WORKER_FILE_BYTES = 4 << 20  # a larger file of a streaming format is read here, and its pieces go to all workers
_BYTES_WORTH_WORKERS = 12 << 20  # below this, starting workers takes longer than the work
_UNPACKED_RATIO = 3


def build_corpus(
    section: CorpusSection, out: Path, *, seed: int, exam_texts: Iterable[str], progress: Progress
) -> CorpusFacts:
    """Write `train.jsonl.zst`, `heldout.jsonl.zst` and `card.json` below `out`.

    `exam_texts`: questions with their answers that must not be learned. The same section, files and seed give the same
    bytes, whatever the number of workers. Raises DataError when a path does not exist, when nothing readable is found,
    when too little is left to learn from and to hold out, and for any unreadable row or file where a source says
    `bad_rows: refuse`; MissingExtraError; DiskError.
    """
    began = time.monotonic()
    listed = [_listed(source) for source in section.sources]
    total_bytes = sum(file.packed_bytes for files in listed for file in files)
    settings = _settings(section, listed, exam_texts)
    workers = _workers(section, listed)
    card = CardBuilder([SourceTally(_name(source)) for source in section.sources])
    if out.exists() and not out.is_dir():
        raise DiskError(f"{out} is not a folder, and the corpus is to be written there; choose another with out=FOLDER")
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    scratch = out / ".pool"
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    try:
        pool = _first_pass(section, listed, settings, workers, scratch, card, (progress, total_bytes))
        decision = decide(pool, section, seed)
        delivered = deliver(pool, decision, out, card)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _require_enough(card, delivered, decision)
    facts = _facts(card, delivered, decision, time.monotonic() - began, workers)
    write_json(out / "card.json", card.card(decision.split_card(delivered.heldout_rows), section.model_dump(), facts))
    return facts


def _name(source: CorpusSource) -> str:
    if isinstance(source, FolderSource):
        return f"folder {Path(source.path).name or source.path}"
    return "small world" if isinstance(source, WorldSource) else "documentation of Python"


def _listed(source: CorpusSource) -> list[SourceFile]:
    """Files of a source, those of unknown kinds too. Raises DataError when a folder has none that can be read."""
    if not isinstance(source, FolderSource):
        return []
    root = Path(source.path).expanduser()
    files = list_files(root, source.include, source.exclude)
    readable = [file for file in files if file.extension in READERS]
    if not readable:
        kinds = ", ".join(sorted({file.extension or "no extension" for file in files})[:8])
        found = f"only files of other kinds ({kinds})" if files else "no files"
        raise DataError(f"{root}: {found}; put documents there, of kinds {' '.join(READERS)} (each also .gz or .zst)")
    require_packages(readable)
    return files


def _settings(section: CorpusSection, listed: list[list[SourceFile]], exam_texts: Iterable[str]) -> Settings:
    exam = None
    if section.decontaminate:
        index = build_index([*exam_texts, *read_exam_texts(section.decontaminate_files)])
        exam = index if index.texts > index.too_short else None
    return Settings(
        quality=section.quality,
        boilerplate=section.boilerplate,
        redact=section.redact,
        languages=frozenset(section.language_filter),
        section_chars=_section_chars(listed),
        exam=exam,
    )


def _section_chars(listed: list[list[SourceFile]]) -> int:
    """Shorter sections for a small corpus, so that it has some hundreds of them."""
    size = sum(
        file.packed_bytes * (_UNPACKED_RATIO if file.compression else 1)
        for files in listed
        for file in files
        if file.extension in READERS
    )
    return min(SECTION_CHARS, max(MIN_SECTION_CHARS, size // 400)) if size else SECTION_CHARS


def _workers(section: CorpusSection, listed: list[list[SourceFile]]) -> int:
    if section.workers != "auto":
        return section.workers
    work = sum(
        file.packed_bytes * READERS[file.extension].cost * (_UNPACKED_RATIO if file.compression else 1)
        for files in listed
        for file in files
        if file.extension in READERS
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if work >= _BYTES_WORTH_WORKERS else 1


def _first_pass(
    section: CorpusSection,
    listed: list[list[SourceFile]],
    settings: Settings,
    workers: int,
    scratch: Path,
    card: CardBuilder,
    shown: tuple[Progress, int],
) -> Pool:
    progress, total_bytes = shown
    with pool_writer(scratch) as pool:
        done = 0
        for origin, (source, files) in enumerate(zip(section.sources, listed, strict=True)):
            if isinstance(source, WorldSource):
                _add_world(source, origin, pool, card)
                continue
            refuse = isinstance(source, FolderSource) and source.bad_rows == "refuse"
            tasks = _tasks(source, origin, files, card)
            for packed, results in ordered_map(_run, tasks, settings, workers):
                for result in results:
                    _collect(result, pool, card, origin, refuse)
                done += packed
                progress.update(done, total_bytes or None, documents=pool.documents, dropped=_dropped(card))
        languages = pool.languages
    return Pool(scratch, languages)


def _dropped(card: CardBuilder) -> int:
    return sum(tally.documents for source in card.sources for tally in source.dropped.values())


def _run(task: Task, settings: Settings) -> tuple[int, list[Result]]:
    return task.packed_bytes, run_task(task, settings)


def _tasks(source: CorpusSource, origin: int, files: list[SourceFile], card: CardBuilder) -> Iterator[Task]:
    """Work of about equal size: small files by name, the pieces of large ones by value."""
    if isinstance(source, PythonDocsSource):
        yield from _batches(python_documents(source.max_bytes), origin, 0)
        return
    text_key = source.text_key if isinstance(source, FolderSource) else "auto"
    waiting: list[SourceFile] = []
    size = 0
    for file in files:
        if file.extension not in READERS:
            card.sources[origin].skipped_files[file.extension or "none"] += 1
            continue
        packed = file.packed_bytes
        _remember(file, packed, card)
        reader = READERS[file.extension]
        large = packed * (_UNPACKED_RATIO if file.compression else 1) > _WORKER_FILE_BYTES
        if waiting and (large or len(waiting) >= _BATCH_FILES or size + packed > _WORKER_FILE_BYTES):
            yield Task(origin=origin, files=tuple(waiting), text_key=text_key, packed_bytes=size)
            waiting, size = [], 0
        if large and reader.streams:
            yield from _streamed(file, origin, text_key, packed, card)
        else:
            waiting.append(file)
            size += packed
    if waiting:
        yield Task(origin=origin, files=tuple(waiting), text_key=text_key, packed_bytes=size)


def _remember(file: SourceFile, packed: int, card: CardBuilder) -> None:
    """The first link of the lineage: name, size and hash of a raw file."""
    try:
        digest = sha256_file(file.path) if file.path.is_file() else "unreadable"
    except OSError:
        digest = "unreadable"
    card.lineage.append({"file": file.source, "bytes": packed, "sha256": digest})


def _streamed(file: SourceFile, origin: int, text_key: str, packed: int, card: CardBuilder) -> Iterator[Task]:
    """The documents of a large file; its size counts towards progress with the last batch."""
    yield from _batches(read_file(file, text_key), origin, packed)


def _batches(documents: Iterable[Document | Problem], origin: int, packed: int) -> Iterator[Task]:
    batch: list[Document | Problem] = []
    chars = 0
    for document in documents:
        batch.append(document)
        chars += _ROW_CHARS + (len(document.text) if isinstance(document, Document) else 0)
        if chars >= _BATCH_CHARS:
            yield Task(origin=origin, documents=tuple(batch))
            batch, chars = [], 0
    yield Task(origin=origin, documents=tuple(batch), packed_bytes=packed)


def _collect(result: Result, pool: PoolWriter, card: CardBuilder, origin: int, refuse: bool) -> None:
    """Take one result into the pool and the card. Raises DataError for a problem where these are refused."""
    source = card.sources[origin]
    if isinstance(result, Problem):
        if refuse:
            raise DataError(f"{result.source}: {result.reason}. bad_rows=drop would leave it out and go on")
        card.problem(result.source, result.reason)
        return
    source.read.add(result.bytes_in)
    for rule, count in result.stripped.items():
        card.stripped[rule] += count
        card.stripped_documents[rule] += 1
    if result.rule:
        source.drop(result.rule, result.bytes_in, result.source, result.sample)
        if result.rule == LANGUAGE_FILTER:
            source.refused_languages[result.language] += 1
        return
    card.redacted.update(result.redacted)
    card.paragraphs_cut += result.paragraphs_cut
    pool.add(result)


def _add_world(source: WorldSource, origin: int, pool: PoolWriter, card: CardBuilder) -> None:
    """Pages of the small world: generated with known truth, so no rule judges them, and their split is their own."""
    fixed = {"train": TRAIN, "heldout": HELDOUT}
    for document in world_documents(source):
        size = utf8_length(document.text)
        cleaned = Cleaned(
            origin=origin,
            source=document.source,
            group=document.source,
            bytes_in=size,
            language=document.language,
            row=row_bytes(document.text, document.source, document.language),
            bytes_out=size,
            sections=[(0, len(document.text), size)],
        )
        card.sources[origin].read.add(size)
        pool.add(cleaned, fixed.get(str(document.meta.get("split")), TRAIN))


def _require_enough(card: CardBuilder, delivered: Delivered, decision: Decision) -> None:
    """Raise DataError, naming the rules that dropped the most, when nothing is left to learn from or to hold out."""
    if delivered.train.documents and delivered.heldout.documents and not decision.one_copied_document:
        return
    tallies = sorted(card.dropped_by_rule().items(), key=lambda item: -item[1].documents)
    dropped = ", ".join(f"{rule} {tally.documents:,} documents ({tally.bytes:,} bytes)" for rule, tally in tallies)
    read = sum(source.read.documents for source in card.sources)
    kept = delivered.train.documents + delivered.heldout.documents
    left = "nothing" if not kept else f"only {delivered.train.bytes + delivered.heldout.bytes:,} bytes of one document"
    parts = [f"of {read:,} documents read, {left} is left to learn from and to hold out"]
    if dropped:
        parts.append(f"dropped: {dropped}")
    if refused := sum((source.refused_languages for source in card.sources), Counter[str]()):
        found = ", ".join(f"{language} {count:,}" for language, count in refused.most_common(5))
        parts.append(f"languages that language_filter does not name: {found} documents")
    if card.problem_count:
        first = card.problems[0]
        parts.append(f"unreadable: {card.problem_count:,}, first {first['source']}: {first['reason']}")
    remedy = "add documents"
    if dropped:
        remedy += ", or switch a rule off (corpus.quality=false, corpus.dedup=none, corpus.language_filter=[])"
    raise DataError("; ".join(parts) + f"; {remedy}")


def _facts(card: CardBuilder, delivered: Delivered, decision: Decision, seconds: float, workers: int) -> CorpusFacts:
    return CorpusFacts(
        train_documents=delivered.train.documents,
        train_bytes=delivered.train.bytes,
        heldout_documents=delivered.heldout.documents,
        heldout_bytes=delivered.heldout.bytes,
        bytes_by_language={name: tally.bytes for name, tally in sorted(card.languages.items())},
        heldout_unit=decision.unit,
        files=len(card.lineage),
        dropped_documents=_dropped(card),
        seconds=round(seconds, 3),
        workers=workers,
    )
