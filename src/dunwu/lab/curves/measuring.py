"""All four curves at one place of a run after the other. What was measured is kept, so that a broken-off measurement goes on.

Shapes: `N` passages, `L` tokens of each; `B` sequences, `T` time, `G` layers, `H` heads.
"""

# ruff: noqa: N815 (shape suffixes of fields are upper case)

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dunwu.core.devices import pick_device, prepare_cpu
from dunwu.core.errors import DataError, RecipeError
from dunwu.core.files import read_json, write_json
from dunwu.core.lineage import stable_hash
from dunwu.core.nulls import with_nulls
from dunwu.core.progress import Progress
from dunwu.corpus.shards import TokenShards
from dunwu.corpus.stream import PretrainStream, Stream
from dunwu.evaluate.stats import mean_interval
from dunwu.lab.curves.in_context import SHORTEST, in_context_score, loss_by_place
from dunwu.lab.curves.induction import chance, head_scores, middling_tokens, repeated_tokens, shape_for
from dunwu.lab.curves.memorised import excess_p_value, is_memorised, memorised_share
from dunwu.lab.curves.passages import Passages, of_shards, of_texts
from dunwu.lab.curves.reading import read_texts
from dunwu.lab.curves.repeats import by_repeats, copies, times_learned, visits
from dunwu.model.hub import load_model

FORMAT = 2
FEWEST = 8  # texts that a curve is drawn from
POOL_TOKENS = 2_000_000  # of the corpus, from which the random tokens of induction are taken


@dataclass(frozen=True, kw_only=True)
class Point:
    """Weights to measure: after `step` updates, `tokens` learned from, `row` the stream's next one."""

    folder: Path
    step: int
    tokens: int
    row: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run by the weights that it left, in their order, and the text that it learned from and that it never saw.

    `identity`: what tells it from any other; `before`: ids that its model wants in front of a text.
    """

    name: str
    identity: str
    points: tuple[Point, ...]
    shards: TokenShards
    heldout: Sequence[npt.NDArray[np.int32]]
    stream: Stream
    before: tuple[int, ...] = ()
    special_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured: `texts` for in-context learning, `sequences` for induction, `passages` of each kind for what is
    memorised and repeated, which are `prompt` and `continuation` tokens long."""

    texts: int = 64
    sequences: int = 16
    passages: int = 512
    prompt: int = 32
    continuation: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("texts", FEWEST),
            ("sequences", 2),
            ("passages", FEWEST),
            ("prompt", 1),
            ("continuation", 1),
        ):
            if getattr(self, name) < least:
                raise RecipeError(f"{name}={getattr(self, name)} is too few; give {least} at least")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What is read, the same at every place of a run. `notes`: what cannot be measured, and why."""

    texts: Passages | None
    learned: Passages
    heldout: Passages
    where: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None
    sequences_BT: npt.NDArray[np.int64]
    period: int
    context: int
    notes: list[str] = field(default_factory=list[str])


def sample_of(run: Run, settings: Settings) -> Sample:
    """Choose texts, passages and random tokens. Raises DataError where the corpus has no passage of that length."""
    context, notes = run.stream.context_length, list[str]()
    length = settings.prompt + settings.continuation
    if length > context:
        raise RecipeError(
            f"prompt and continuation are {length} tokens and the context of {run.name} is {context}; make them shorter"
        )
    learned = of_shards(run.shards, length=length, count=settings.passages, seed=settings.seed)
    heldout = of_texts(run.heldout, length=length, count=settings.passages, seed=settings.seed)
    for name, found in (("training", learned), ("held-out", heldout)):
        if len(found) < FEWEST:
            raise DataError(
                f"{run.name}: {len(found)} passages of {length} tokens in its {name} text; {FEWEST} are needed: ask for shorter "
                "ones (--prompt-tokens, --continuation-tokens)"
            )
    where = None
    if isinstance(run.stream, PretrainStream):
        where = copies(run.shards.tokens, learned)
    else:
        notes.append("text was replayed beside the corpus, so how often a passage was learned from is not counted")
    texts = _texts(run, settings, context)
    if texts is None:
        notes.append(f"held-out documents are too short for {FEWEST} texts of {SHORTEST} tokens: no in-context score")
    period, repeats = shape_for(context)
    pool = middling_tokens(run.shards.tokens[:POOL_TOKENS], least=2 * period, without=run.special_ids)
    return Sample(
        texts=texts,
        learned=learned,
        heldout=heldout,
        where=where,
        sequences_BT=repeated_tokens(
            pool, start_id=run.shards.begin_id, period=period, repeats=repeats,
            sequences=settings.sequences, seed=settings.seed,
        ),
        period=period,
        context=0 if texts is None else texts.ids_NL.shape[1],
        notes=notes,
    )  # fmt: skip


def _texts(run: Run, settings: Settings, context: int) -> Passages | None:
    """Held-out texts as long as the context; where there are too few, half as long, and so on."""
    length = context - len(run.before)
    while length >= SHORTEST:
        found = of_texts(run.heldout, length=length, count=settings.texts, seed=settings.seed)
        if len(found) >= FEWEST:
            return found
        length //= 2
    return None


def measure_run(run: Run, settings: Settings, progress: Progress, *, kept: Path | None) -> dict[str, Any]:
    """Measure every point; returns what was found as JSON holds it. `kept`: a folder for finished points."""
    prepare_cpu()
    sample = sample_of(run, settings)
    points: list[dict[str, Any]] = []
    for number, point in enumerate(run.points):
        progress.update(number, len(run.points), step=point.step)
        points.append(_kept(run, point, settings, sample, kept))
    progress.update(len(run.points), len(run.points))
    time = sample.sequences_BT.shape[1]
    return {
        "name": run.name,
        "context": sample.context,
        "chance": chance(time, sample.period),
        "period": sample.period,
        "texts": 0 if sample.texts is None else len(sample.texts),
        "passages": {"learned": len(sample.learned), "heldout": len(sample.heldout)},
        "documents": {name: len(np.unique(one.document_N)) for name, one in (("learned", sample.learned), ("heldout", sample.heldout))},
        "notes": sample.notes,
        "points": points,
    }  # fmt: skip


def _kept(run: Run, point: Point, settings: Settings, sample: Sample, kept: Path | None) -> dict[str, Any]:
    key = stable_hash({"format": FORMAT, "run": run.identity, "step": point.step, "settings": asdict(settings)})
    file = None if kept is None else kept / f"{key[:16]}.json"
    if file is not None and file.is_file():
        return read_json(file)
    found = with_nulls(measure_point(run, point, settings, sample))
    if file is not None:
        write_json(file, found)
    return found


@torch.no_grad()
def measure_point(run: Run, point: Point, settings: Settings, sample: Sample) -> dict[str, Any]:
    """All curves at one point."""
    model = load_model(point.folder, device=pick_device(), dtype=torch.float32).eval()
    scores_GBH = head_scores(model, sample.sequences_BT, sample.period)
    learned = read_texts(model, sample.learned.ids_NL, before=run.before)
    heldout = read_texts(model, sample.heldout.ids_NL, before=run.before)
    own, control = (is_memorised(one.likeliest_NT, settings.continuation) for one in (learned, heldout))
    nats_N = learned.nats_NT[:, -settings.continuation :].mean(1)
    found: dict[str, Any] = {"step": point.step, "tokens": point.tokens, "in_context": None, "by_place": []}
    if sample.texts is not None:
        read = read_texts(model, sample.texts.ids_NL, before=run.before)
        found |= {
            "in_context": in_context_score(read.nats_NT, sample.texts.document_N)._asdict(),
            "by_place": loss_by_place(read.nats_NT),
        }
    found["heads"] = [
        {"layer": layer, "head": head, **mean_interval(scores_GBH[layer, :, head])._asdict()}
        for layer in range(scores_GBH.shape[0])
        for head in range(scores_GBH.shape[2])
    ]
    found["memorised"] = {
        "learned": memorised_share(own, sample.learned.document_N)._asdict(),
        "heldout": memorised_share(control, sample.heldout.document_N)._asdict(),
        "p_value": excess_p_value(
            own, sample.learned.document_N, control, sample.heldout.document_N, seed=settings.seed
        ),
    }
    found["loss"] = {
        "learned": float(nats_N.mean()),
        "heldout": float(heldout.nats_NT[:, -settings.continuation :].mean()),
    }
    found["repeats"] = None if sample.where is None else _repeats(run, point, settings, sample, nats_N, own)
    return found  # fmt: skip


def _repeats(
    run: Run,
    point: Point,
    settings: Settings,
    sample: Sample,
    nats_N: npt.NDArray[np.float64],
    memorised_N: npt.NDArray[np.bool_],
) -> list[dict[str, Any]]:
    assert sample.where is not None
    assert isinstance(run.stream, PretrainStream)
    visits_V = visits(run.stream, len(run.shards.tokens), point.row)
    times_N = times_learned(visits_V, sample.where, sample.learned, skip=settings.prompt)
    classes = by_repeats(nats_N, times_N, sample.learned.document_N)
    return [
        {**one.facts(), "memorised": memorised_share(memorised_N[at], sample.learned.document_N[at])._asdict()}
        for one in classes
        for at in [(times_N >= one.least) & (times_N <= one.most)]
    ]
