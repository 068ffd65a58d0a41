"""`dunwu lab curves`: what runs learned when, out of the weights that their builds kept."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dunwu.build.home import Home, StageRecord
from dunwu.build.stages.pretrain import rows_learned
from dunwu.build.stages.tokenizer import SHARDS
from dunwu.cli.lab_shared import page_folder, tell
from dunwu.core.errors import BuildError
from dunwu.core.files import read_json
from dunwu.core.progress import TerminalProgress
from dunwu.corpus.shards import TokenShards
from dunwu.corpus.store import read_documents
from dunwu.lab.curves.measuring import Point, Run, Settings, measure_run
from dunwu.lab.curves.telling import curves_experiment, lines_of
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.load import load_tokenizer
from dunwu.train.checkpoint import STATE
from dunwu.train.snapshots import snapshots_in

HELDOUT_CHARACTERS = 20_000_000  # of held-out text that passages are taken from
MEASURED = "measured"


def curves(homes: Sequence[Path], chosen: Mapping[str, int], *, out: Path | None, as_json: bool) -> None:
    """Measure every snapshot and the finished pre-training of each home, and tell."""
    settings = Settings(**chosen)
    folder = page_folder(out)
    runs = [run_of(home.expanduser()) for home in homes]
    found: list[dict[str, Any]] = []
    with TerminalProgress() as progress:
        for run in runs:
            progress.start(f"Measuring {run.name}")
            found.append(measure_run(run, settings, progress, kept=None if folder is None else folder / MEASURED))
    lines = [*lines_of(found), *_advice(runs)]
    tell(curves_experiment(found, settings), lines, out=folder, as_json=as_json)


def run_of(folder: Path) -> Run:
    """The pre-training of a build. Raises BuildError where there is none that is done."""
    home = Home(folder)
    if not home.exists():
        raise BuildError(f"{folder} is not the home of a build; give the folder that dunwu build made")
    records = home.current()
    if "pretrain" not in records:
        raise BuildError(f"{folder} has no finished pre-training; run dunwu build {folder} to its end first")
    record, tokenizer = records["pretrain"], home.folder_of(records["tokenizer"])
    settings = record.identity["settings"]
    shards = TokenShards.open(tokenizer / SHARDS, verify=False)
    words = load_tokenizer(home.folder_of(record))
    return Run(
        name=folder.resolve().name,
        identity=record.hash,
        points=tuple(_points(home.folder_of(record), record)),
        shards=shards,
        heldout=list(_heldout(home.folder_of(records["corpus"]), words)),
        stream=rows_learned(
            tokenizer,
            context_length=record.facts["context_length"],
            seed=settings["seed"],
            share=settings.get("replay_share", 0.0),
        ),
        before=shards.facts.start_ids,
        special_ids=frozenset(words.special_ids.values()),
    )


def _points(folder: Path, record: StageRecord) -> Iterator[Point]:
    facts = record.facts
    for at, path in snapshots_in(folder):
        if at.step < facts["steps"]:
            yield Point(folder=path, step=at.step, tokens=at.tokens, row=at.row)
    yield Point(folder=folder, step=facts["steps"], tokens=facts["tokens"], row=_last_row(folder, record))


def _last_row(folder: Path, record: StageRecord) -> int:
    """The stream's next row at the end: what the last checkpoint says, or as many as the tokens fill, where it is gone."""
    states = sorted(folder.glob(f"checkpoints/step-*/{STATE}"))
    if states:
        return read_json(states[-1])["values"]["state"]["row"]
    return record.facts["tokens"] // record.facts["context_length"]


def _heldout(folder: Path, words: TokenizerLike) -> Iterator[npt.NDArray[np.int32]]:
    """Held-out documents as ids, each text once: copies would make intervals over documents too narrow."""
    left, seen = HELDOUT_CHARACTERS, set[bytes]()
    for document in read_documents(folder, "heldout"):
        digest = hashlib.blake2b(document.text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest in seen:
            continue
        seen.add(digest)
        yield words.encode_array(document.text[:left])
        left -= len(document.text)
        if left <= 0:
            return


def _advice(runs: Sequence[Run]) -> list[str]:
    if any(len(run.points) > 1 for run in runs):
        return []
    return [
        "",
        "Only the end of pre-training was kept. To see how it came about, build with pretrain.snapshots=12: that many more copies of "
        "the weights, in equal ratios of tokens.",
    ]
