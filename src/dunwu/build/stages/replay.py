"""The general text to replay, cleaned, deduplicated and split as the corpus is: `train.jsonl.zst`, `heldout.jsonl.zst`, `card.json`.

Facts: those of `CorpusFacts`.
"""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dunwu.build.costs import corpus_seconds, source_bytes
from dunwu.build.exam import exam_texts, world_of
from dunwu.build.graph import Outcome, Outlook, Stage, Work
from dunwu.build.home import Figures, Forecast
from dunwu.build.inputs import replay_inputs
from dunwu.build.meters import resident_bytes
from dunwu.build.stages.corpus import CORPUS_BYTES
from dunwu.core.recipe import CorpusSection, PythonDocsSource, Recipe
from dunwu.corpus.pipeline import build_corpus


def replay_corpus(recipe: Recipe) -> CorpusSection:
    """The corpus section with the replayed sources in the place of its own, in whatever language they are."""
    return recipe.corpus.model_copy(update={"sources": recipe.replay.sources, "language_filter": ()})


def _settings(recipe: Recipe) -> Mapping[str, Any]:
    section = replay_corpus(recipe).model_dump(mode="json", exclude={"workers", "decontaminate_files"})
    for source in section["sources"]:
        source.pop("path", None)  # what the files hold counts, not where they lie
    settings: dict[str, Any] = {"replay": section, "seed": recipe.seed}
    if recipe.corpus.decontaminate and world_of(recipe) is not None:
        settings["exam_questions"] = recipe.evaluate.exam_questions
    if any(isinstance(source, PythonDocsSource) for source in recipe.replay.sources):
        settings["python"] = platform.python_version()
    return settings


def _forecast(outlook: Outlook) -> Forecast:
    sizes = source_bytes(outlook.recipe.replay.sources)
    total, heldout = sum(sizes.values()), outlook.recipe.corpus.heldout_fraction
    return Forecast(
        predicted=Figures(seconds=corpus_seconds(outlook.recipe, total), peak_bytes=resident_bytes() + CORPUS_BYTES),
        facts={
            "train_bytes": int(total * (1 - heldout)),
            "heldout_bytes": int(total * heldout),
            "bytes_by_language": sizes,
        },
    )


def _run(work: Work) -> Outcome:
    facts = build_corpus(
        replay_corpus(work.recipe),
        work.folder,
        seed=work.recipe.seed,
        exam_texts=exam_texts(work.recipe),
        progress=work.progress,
    )
    return Outcome(facts=asdict(facts))


REPLAY = Stage(
    name="replay",
    title="Reading the text to replay",
    version="1",
    needs=(),
    settings=_settings,
    inputs=replay_inputs,
    forecast=_forecast,
    run=_run,
    wanted=lambda recipe: bool(recipe.replay.sources),
)
