"""From a folder of documents to packed tokens: MB/s and peak memory of each step and of the whole, at two sizes.

    python benchmarks/corpus.py                     # 30 and 300 MB, some five minutes
    python benchmarks/corpus.py --sizes 30 --text FOLDER

The text is real (English books and Chinese novels beside the checkout, or any folder given) and repeated to the size
wanted, each time with some of its frequent words changed, so that near-deduplication has work to do and keeps most.
Two thirds of it are JSON lines of about 8 kB, a third whole `.txt` books. Every figure is one line of JSON; MB are 10**6
bytes of UTF-8 text. Figures "a core" come from one process bound to one core,
and divide by the seconds of processor time that it used, so that other work on the machine changes them little; the
wall time stands beside. Each run is a process of its own.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from dunwu.core.progress import SilentProgress
from dunwu.core.recipe import CorpusSection, FolderSource
from dunwu.core.records import Document
from dunwu.corpus.boilerplate import strip_boilerplate
from dunwu.corpus.clean import normalise
from dunwu.corpus.decontaminate import build_index, contaminated_spans
from dunwu.corpus.dedup import text_hash
from dunwu.corpus.language import identify
from dunwu.corpus.measure import lexemes
from dunwu.corpus.pipeline import build_corpus
from dunwu.corpus.quality import broken_rule
from dunwu.corpus.readers import READERS, list_files, read_file
from dunwu.corpus.redact import redact
from dunwu.corpus.shape import shape_of
from dunwu.corpus.shards import write_shards
from dunwu.corpus.store import read_documents, row_bytes
from dunwu.corpus.work import Settings, clean_document
from dunwu.tokenizer.bpe import Tokenizer, train_tokenizer

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
MEGA = 1_000_000
ROW_CHARS = 8_000
VOCABULARY = 8_192
_FREQUENT = tuple(
    re.findall(
        r"\w+",
        "the and of to a in that it was he his with as had for not at but be on him she her which they said all have from"
        " one there were by my so when what would this is no out up who could them into me man been",
    )
)
_FREQUENT_HAN = "的了不一道来是人他我这有那你说个去在也着上下里子只好见又大么便得出家看把中时过"
_EXAM = [
    f"What would the number {n} of the questions in this set be called if nobody had answered it?" for n in range(5000)
]


def texts_below(folders: list[Path]) -> list[str]:
    """All documents in these folders."""
    files = [file for folder in folders for file in list_files(folder, ("**/*",), ("*.md", "*.tsv"))]
    found = [part for file in files if file.extension in READERS for part in read_file(file)]
    return [part.text for part in found if isinstance(part, Document)]


def edited(text: str, copy: int, rng: random.Random) -> str:
    """A copy of the text with about a tenth of its words (or characters) changed; the first copy as it is."""
    if copy == 0:
        return text
    if sum("\u4e00" <= char <= "\u9fff" for char in text[:1000]) > 300:
        for char in rng.sample(_FREQUENT_HAN, 9):
            text = text.replace(char, chr(0x4E00 + rng.randrange(0x2000)))
        return text
    for word in rng.sample(_FREQUENT, 9):
        text = text.replace(f" {word} ", f" {word}{copy:x} ")
    return text


def make_corpus(texts: list[str], folder: Path, megabytes: int) -> int:
    """Write documents of about `megabytes` below `folder`; returns their bytes of text."""
    rng = random.Random(0)
    size = copy = 0
    folder.mkdir(parents=True)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as rows:
        while size < megabytes * MEGA:
            for number, text in enumerate(texts):
                text = edited(text, copy, rng)
                size += len(text.encode())
                if number % 3:
                    for start in range(0, len(text), ROW_CHARS):
                        rows.write(json.dumps({"text": text[start : start + ROW_CHARS]}, ensure_ascii=False) + "\n")
                else:
                    (folder / f"book-{copy:03}-{number:03}.txt").write_text(text, "utf-8")
                if size >= megabytes * MEGA:
                    break
            copy += 1
    return size


@dataclass
class Measured:
    """What one process found: processor seconds (of all its threads, not of its children), wall seconds, peak memory."""

    cpu_s: float
    wall_s: float
    peak_bytes: int


class Clock:
    """Processor and wall time, added up over several stretches."""

    def __init__(self) -> None:
        self.cpu_s = self.wall_s = 0.0

    def __enter__(self) -> "Clock":
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu_s += time.process_time() - self._cpu
        self.wall_s += time.perf_counter() - self._wall

    def measured(self, peak_bytes: int) -> Measured:
        """What was added up, with the peak memory beside it."""
        return Measured(self.cpu_s, self.wall_s, peak_bytes)


def reset_peak() -> None:
    """Let the kernel count this process's peak memory anew (Linux; elsewhere peaks are those since the start)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Peak resident bytes of this process since `reset_peak`."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    return int(found.group(1)) * 1024 if found else psutil.Process().memory_info().rss


def documents_of(folder: Path) -> Iterator[Document]:
    """The raw documents of a folder, streamed."""
    for file in list_files(folder, ("**/*",), ()):
        for part in read_file(file):
            if isinstance(part, Document):
                yield part


def step_functions() -> dict[str, Callable[[str], Any]]:
    """Each step on a text; `lexemes` keeps its last results, so it is emptied before a step that uses it."""
    exam = build_index(_EXAM)
    settings = Settings(
        quality=False, boilerplate=False, redact=False, languages=frozenset(), section_chars=16_000, exam=None
    )

    def fresh(step: Callable[[str], Any]) -> Callable[[str], Any]:
        def run(text: str) -> Any:
            lexemes.cache_clear()
            return step(text)

        return run

    return {
        "normalise": normalise,
        "boilerplate": strip_boilerplate,
        "language": identify,
        "quality": fresh(lambda text: broken_rule(shape_of(text), "prose", "en")),
        "decontaminate": fresh(lambda text: contaminated_spans(lexemes(text), exam)),
        "redact": redact,
        "hash": text_hash,
        "row": lambda text: row_bytes(text, "source", "en"),
        "fingerprint_and_all_off": fresh(lambda text: clean_document(Document(text=text, source="s"), 0, settings)),
    }


def measure_steps(folder: Path) -> dict[str, Measured]:
    """Seconds in each step alone over the documents of a folder, and the peak memory of its pass."""
    found: dict[str, Measured] = {}
    reset_peak()
    with Clock() as clock:
        for _ in documents_of(folder):
            pass
    found["read"] = clock.measured(peak())
    for name, step in step_functions().items():
        reset_peak()
        clock = Clock()
        for document in documents_of(folder):
            with clock:
                step(document.text)
        found[name] = clock.measured(peak())
    return found


class TreePeak:
    """Highest sum of the resident memory of this process and its children, looked at twenty times a second."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "TreePeak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(0.05):
            total = 0
            for process in [own, *own.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            self.bytes = max(self.bytes, total)


def measure_pipeline(folder: Path, tokenizer: Path, dedup: str, workers: int, out: Path) -> dict[str, Measured]:
    """Documents to corpus, corpus to packed tokens."""
    section = CorpusSection.model_validate(
        {"sources": [FolderSource(path=str(folder))], "dedup": dedup, "workers": workers}
    )
    found: dict[str, Measured] = {}
    for name in ("corpus", "tokenize_and_pack"):
        reset_peak()
        with TreePeak() as tree, Clock() as clock:
            if name == "corpus":
                facts = build_corpus(section, out, seed=0, exam_texts=_EXAM, progress=SilentProgress())
            else:
                rows = read_documents(out, "train")
                write_shards(rows, Tokenizer.load(tokenizer), out, progress=SilentProgress(), workers=workers)
        found[name] = clock.measured(max(peak(), tree.bytes))
    kept = (facts.train_bytes + facts.heldout_bytes) / MEGA
    print(
        f"# {dedup}, {workers} workers: {kept:.1f} MB kept, {facts.dropped_documents} documents dropped",
        file=sys.stderr,
    )
    return found


def in_own_process(*arguments: str, core: bool) -> dict[str, Measured]:
    """Run this file again for one measurement; `core`: bound to one core."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--child", *arguments]
    bind = (lambda: os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})) if core else None
    made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment, preexec_fn=bind)
    return {name: Measured(**value) for name, value in json.loads(made.stdout.splitlines()[-1]).items()}


def child(arguments: list[str]) -> None:
    """One measurement, as JSON on the last line."""
    if arguments[0] == "steps":
        found = measure_steps(Path(arguments[1]))
    else:
        folder, tokenizer, dedup, workers, out = arguments[1:]
        found = measure_pipeline(Path(folder), Path(tokenizer), dedup, int(workers), Path(out))
    print(json.dumps({name: vars(value) for name, value in found.items()}))


def say(figure: str, values: list[float], unit: str, target: str | None = None, **more: Any) -> None:
    """Print one figure: the median of its runs."""
    row = {"figure": figure, "value": round(sorted(values)[len(values) // 2], 3), "unit": unit, "peer": None}
    row |= {"target": target, "n": len(values), "min": round(min(values), 3), "max": round(max(values), 3)}
    device = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    more = {key: round(value, 2) for key, value in more.items()}
    print(json.dumps({**row, **more, "device": device}, ensure_ascii=False), flush=True)


def run_size(label: str, folder: Path, size: int, tokenizer: Path, scratch: Path, repeats: int) -> dict[str, int]:
    """All figures of one size; returns the peak bytes of each way of running."""
    for name, step in in_own_process("steps", str(folder), core=True).items():
        rate = size / MEGA / max(step.cpu_s, 1e-9)
        say(f"corpus_step_{name}_{label}", [rate], "MB/s a core", peak_mb=step.peak_bytes // MEGA, wall_s=step.wall_s)
    peaks: dict[str, int] = {}
    cores = len(os.sched_getaffinity(0))
    for dedup, workers, target in (("near", 1, ">=1"), ("exact", 1, ">=5"), ("near", cores, None)):
        runs = []
        for turn in range(repeats):
            out = scratch / f"{label}-{dedup}-{workers}-{turn}"
            arguments = ("pipeline", str(folder), str(tokenizer), dedup, str(workers), str(out))
            runs.append(in_own_process(*arguments, core=workers == 1))
            subprocess.run(["rm", "-rf", str(out)], check=True)
        way = f"{dedup}_{workers}_worker{'s' if workers > 1 else ''}"
        peaks[way] = max(step.peak_bytes for run in runs for step in run.values())
        for name in ("corpus", "tokenize_and_pack", "disk_to_tokens"):
            steps = [list(run.values()) if name == "disk_to_tokens" else [run[name]] for run in runs]
            wall = [sum(step.wall_s for step in run) for run in steps]
            busy = [sum(step.cpu_s for step in run) for run in steps] if workers == 1 else wall
            per = "MB/s a core" if workers == 1 else "MB/s"
            say(
                f"{name}_{way}_{label}",
                [size / MEGA / seconds for seconds in busy],
                per,
                target if name == "disk_to_tokens" else None,
                peak_mb=max(step.peak_bytes for run in steps for step in run) // MEGA,
                wall_s=sorted(wall)[len(wall) // 2],
            )
    return peaks


def main() -> None:
    """Make the corpora, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[30, 300], help="MB of text")
    parser.add_argument("--text", type=Path, nargs="+", help="folders of real text to repeat")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each pipeline figure")
    options = parser.parse_args()
    folders = options.text or [SHARED / "en_classic_books", SHARED / "zh_classic_novels"]
    missing = [str(folder) for folder in folders if not folder.exists()]
    if missing:
        parser.error(f"{', '.join(missing)} not found; name folders of real text with --text")
    texts = texts_below(folders)
    with tempfile.TemporaryDirectory(prefix="dunwu-corpus-") as name:
        scratch = Path(name)
        train_tokenizer((text[:20_000] for text in texts), vocab_size=VOCABULARY, out=scratch / "tokenizer")
        found = {}
        for megabytes in options.sizes:
            label, folder = f"{megabytes}MB", scratch / f"text-{megabytes}"
            size = make_corpus(texts, folder, megabytes)
            found[label] = run_size(label, folder, size, scratch / "tokenizer", scratch, options.repeats)
            subprocess.run(["rm", "-rf", str(folder)], check=True)
        first, last = f"{options.sizes[0]}MB", f"{options.sizes[-1]}MB"
        for way in found[first] if len(found) > 1 else ():
            say(f"memory_growth_{way}_{first}_to_{last}", [found[last][way] / found[first][way]], "x", "<=1.33")


if __name__ == "__main__":
    child(sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main()
