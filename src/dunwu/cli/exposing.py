"""How much of the tasks of `dunwu eval` stood in what the model learned from."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dunwu.build.learned_from import Learned, Source, learned_from
from dunwu.cli.evaluating_options import Evaluating
from dunwu.cli.evaluating_partner import Place
from dunwu.core.errors import DataError
from dunwu.core.files import read_json
from dunwu.core.problems import Problem
from dunwu.core.progress import TerminalProgress
from dunwu.core.records import Document
from dunwu.evaluate.contamination import Searched, exposure, read_corpus, seen_shares
from dunwu.evaluate.running import TaskRun, measured_of
from dunwu.evaluate.tasks.task import Task


def learned(given: Evaluating, place: Place) -> Learned:
    """What is to be searched, and what cannot be: a folder that was named, or all that the model's build and its bases read."""
    if given.corpus == "none":
        return Learned()
    if given.corpus != "auto":
        folder = Path(given.corpus).expanduser()
        return Learned(sources=(Source(name=folder.name, documents=lambda: read_corpus(folder), bytes=_bytes(folder)),))
    if place.folder is None:
        return Learned(missing=(f"{place.name} answers behind a URL: nothing says what it learned from",))
    found = learned_from(place.name.partition(":")[0], place.folder)
    if place.delta is not None:
        found += Learned(missing=(f"{place.delta.name} is a delta, which does not say what it learned from",))
    return found


def with_exposure(
    runs: Sequence[TaskRun],
    tasks: Sequence[Task],
    asked: Mapping[str, Sequence[Problem]],
    learned: Learned,
    progress: TerminalProgress,
) -> tuple[list[TaskRun], tuple[str, ...]]:
    """The runs with how much of each task was learned from, and what of that could not be read."""
    if not learned.sources:
        return list(runs), learned.missing
    progress.start("looking for the questions in what was learned from")
    missing = list(learned.missing)
    tests = [Searched(asked=asked[task.name], all=task.problems()) for task in tasks]
    sizes = [source.bytes for source in learned.sources]
    total = sum(size for size in sizes if size) if all(sizes) else None
    shares = seen_shares(tests, _documents(learned.sources, missing), progress=progress, total=total)
    corpus = ", ".join(source.name for source in learned.sources)
    found = [_exposed(run, test.asked, own, corpus) for run, test, own in zip(runs, tests, shares, strict=True)]
    return found, tuple(missing)


def _documents(sources: Sequence[Source], missing: list[str]) -> Iterator[Document]:
    """All documents; a source that can no longer be read as it was joins what is missing, unless it is the only one."""
    for source in sources:
        try:
            yield from source.documents()
        except DataError as error:
            if len(sources) == 1:
                raise
            missing.append(f"{source.name}: {error}")


def _exposed(run: TaskRun, asked: Sequence[Problem], shares: Sequence[float | None], corpus: str) -> TaskRun:
    told = exposure(corpus, asked, shares, measured_of(run.samples, run.outcome.figures))
    samples = tuple(dataclasses.replace(one, seen=share) for one, share in zip(run.samples, shares, strict=True))
    return TaskRun(outcome=dataclasses.replace(run.outcome, exposure=told), samples=samples)


def _bytes(corpus: Path) -> int | None:
    """How much text a finished corpus has, where its card says so."""
    card = corpus / "card.json"
    return read_json(card).get("facts", {}).get("train_bytes") if card.is_file() else None
