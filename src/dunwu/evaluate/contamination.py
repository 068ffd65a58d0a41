"""How much of a test was in the training corpus: runs of words that a question shares with it.

As GPT-3 counted (arXiv:2005.14165, appendix C): a question that shares a run of 13 words is seen; one that is shorter, but has at
least 8, where it is there as a whole. Chinese counts characters. Where we differ: runs that more than a tenth of a task's
questions have are the task's own wording, and tell nothing of any question. One shared run may still be wording that many texts
have; so it is also told of how many questions the corpus holds nearly all runs, four fifths, as Llama 2 called a sample dirty
(arXiv:2307.09288, appendix A.6).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dunwu.core.errors import DataError, RecipeError
from dunwu.core.problems import Problem
from dunwu.core.progress import Progress, SilentProgress
from dunwu.core.records import Document, Score
from dunwu.core.units import format_bytes
from dunwu.corpus.decontaminate import CHARACTERS, WORDS
from dunwu.corpus.measure import Hashes, lexemes, shingles
from dunwu.corpus.readers import READERS, list_files, read_file, require_packages
from dunwu.corpus.readers import Problem as Unread
from dunwu.corpus.store import read_documents
from dunwu.evaluate.clustered import score_interval
from dunwu.evaluate.outcome import Exposure, Figure
from dunwu.evaluate.running import part_figures
from dunwu.evaluate.tasks.measures import Measured

SHORTEST = 8  # of a question as a whole; "what is the capital of France?" is everywhere and says nothing
OWN_WORDING = 10  # a run that so many questions have, and a tenth of them, is no question's own
WHOLE = 0.8  # of a question's runs: it stands there, and not its wording alone
FILTER_BITS = 1 << 20
BLOCK_CHARACTERS = 1 << 17
BORDER = "\nzqxjborderjxqz\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """How long the runs are: in words, and in characters for text of mostly Chinese and its like."""

    words: int = WORDS
    characters: int = CHARACTERS

    def __post_init__(self) -> None:
        for name in ("words", "characters"):
            if getattr(self, name) < SHORTEST:
                raise RecipeError(
                    f"runs of {getattr(self, name)} {name} are too common to tell anything; use {SHORTEST} or more"
                )


def read_corpus(path: Path) -> Iterator[Document]:
    """What was learned from: a finished corpus (`train*.jsonl.zst`), or a file or a folder of documents of any format that we read.

    Raises DataError where there is nothing to read, or a file cannot be read: what it holds might be the test.
    """
    if path.is_dir() and any(path.glob("train*.jsonl.zst")):
        yield from read_documents(path, "train")
        return
    files = [file for file in list_files(path, ("*",), ()) if file.extension in READERS]
    if not files:
        raise DataError(
            f"{path} holds no document that can be read ({' '.join(READERS)}); give the folder of the corpus"
        )
    require_packages(files)
    for file in files:
        for document in read_file(file):
            if isinstance(document, Unread):
                raise DataError(f"{path}: {document.source}: {document.reason}; mend it, or give a folder without it")
            yield document


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """The questions of a task that were asked, and all that it has: what many of these say is its wording."""

    asked: Sequence[Problem]
    all: Sequence[Problem]


def seen_shares(
    tests: Sequence[Searched],
    documents: Iterable[Document],
    *,
    runs: Runs | None = None,
    progress: Progress | None = None,
    total: int | None = None,
) -> list[list[float | None]]:
    """Of each question that was asked the share of its runs that the documents hold; None where it is too short to tell.

    `total`: how many bytes of UTF-8 the documents have, for progress. The documents are read once and not kept.
    """
    grams = [_without_own_wording([_grams(one, runs or Runs()) for one in test.asked], test, runs) for test in tests]
    tables = {length: _Table(hashes) for length, hashes in _tables([one for own in grams for one in own]).items()}
    done = 0
    for text in _blocks(document.text for document in documents):
        _mark(text, tables)
        done += len(text.encode("utf-8", "surrogatepass"))
        (progress or SilentProgress()).update(done, total, read=format_bytes(done))
    return [[_share(length, hashes, tables) for length, hashes in own] for own in grams]


class _Table:
    """Hashes that are looked for, sorted, whether each was found, and a small filter before them."""

    def __init__(self, hashes: Hashes) -> None:
        self.hashes, self.found = hashes, np.zeros(len(hashes), np.bool_)
        self._filter = np.zeros(FILTER_BITS, np.bool_)
        self._filter[self._bits(hashes)] = True

    def mark(self, hashes: Hashes) -> None:
        """Those of a text were found."""
        likely = hashes[self._filter.take(self._bits(hashes))]
        places = np.minimum(np.searchsorted(self.hashes, likely), len(self.hashes) - 1)
        self.found[places[self.hashes[places] == likely]] = True

    def share(self, hashes: Hashes) -> float:
        """How many of these were found."""
        return float(self.found[np.searchsorted(self.hashes, hashes)].mean())

    @staticmethod
    def _bits(hashes: Hashes) -> npt.NDArray[np.int64]:
        return (hashes & np.uint64(FILTER_BITS - 1)).astype(np.int64)


def _blocks(texts: Iterable[str]) -> Iterator[str]:
    """Short texts together, a word between them that no question has, so that no run goes on from one into the next."""
    held: list[str] = []
    size = 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size >= BLOCK_CHARACTERS:
            yield BORDER.join(held)
            held, size = [], 0
    if held:
        yield BORDER.join(held)


def exposure(
    corpus: str, problems: Sequence[Problem], shares: Sequence[float | None], measured: Sequence[Measured]
) -> Exposure:
    """How many problems were seen, and the figures without and with them."""
    clean = [place for place, share in enumerate(shares) if not share]
    dirty = [place for place, share in enumerate(shares) if share]
    checked = [place for place, share in enumerate(shares) if share is not None]
    groups = [problems[place].group for place in checked]
    known = [shares[place] or 0.0 for place in checked]
    return Exposure(
        corpus=corpus,
        checked=len(checked),
        seen=_share_of("seen", [one > 0 for one in known], groups),
        whole=_share_of("whole", [one >= WHOLE for one in known], groups),
        clean=_figures(measured, problems, clean),
        dirty=_figures(measured, problems, dirty),
    )


def _share_of(name: str, those: Sequence[bool], groups: Sequence[str]) -> Score:
    value, low, high, n = score_interval([float(one) for one in those], groups)
    return Score(name=name, value=value, low=low, high=high, n=n, unit="share")


def _figures(measured: Sequence[Measured], problems: Sequence[Problem], places: Sequence[int]) -> tuple[Figure, ...]:
    return part_figures(measured, problems, places) if places else ()


def text_of(problem: Problem) -> str:
    """What of a problem a corpus may hold: the question with its answers."""
    answers = problem.choices or (problem.target,)
    return " ".join([problem.input, *answers])


def _grams(problem: Problem, runs: Runs) -> tuple[int, Hashes]:
    """The length of a problem's runs, and their hashes; none where it is too short."""
    found = lexemes(text_of(problem))
    single = bool(len(found)) and bool(found.single.mean() > 0.5)
    length = min(runs.characters if single else runs.words, len(found))
    if length < SHORTEST:
        return 0, np.empty(0, np.uint64)
    return length, np.unique(shingles(found.hashes, length))


def _without_own_wording(
    grams: Sequence[tuple[int, Hashes]], test: Searched, runs: Runs | None
) -> list[tuple[int, Hashes]]:
    counts: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for problem in test.all:
        length, hashes = _grams(problem, runs or Runs())
        for one in hashes.tolist():
            counts[length][one] += 1
    most = max(OWN_WORDING, len(test.all) // 10)
    common = {
        length: np.array([one for one, count in of.items() if count > most], np.uint64) for length, of in counts.items()
    }
    empty = np.empty(0, np.uint64)
    return [(length, hashes[~np.isin(hashes, common.get(length, empty))]) for length, hashes in grams]


def _tables(grams: Sequence[tuple[int, Hashes]]) -> dict[int, Hashes]:
    """The hashes that are looked for, sorted, by the length of run."""
    by_length: dict[int, list[Hashes]] = defaultdict(list)
    for length, hashes in grams:
        if len(hashes):
            by_length[length].append(hashes)
    return {length: np.unique(np.concatenate(parts)) for length, parts in by_length.items()}


def _mark(text: str, tables: Mapping[int, _Table]) -> None:
    found = lexemes(text)
    for length, table in tables.items():
        if len(found) >= length:
            table.mark(shingles(found.hashes, length))


def _share(length: int, hashes: Hashes, tables: Mapping[int, _Table]) -> float | None:
    return tables[length].share(hashes) if len(hashes) else None
