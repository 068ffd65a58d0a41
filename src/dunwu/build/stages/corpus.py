"""Documents → text, cleaned, deduplicated and split: `train.jsonl.zst`, `heldout.jsonl.zst`, `card.json`.

Facts: those of `CorpusFacts`.
"""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dunwu.build.costs import corpus_seconds, text_bytes
from dunwu.build.exam import exam_texts, world_of
from dunwu.build.graph import Outcome, Outlook, Stage, Work
from dunwu.build.home import Figures, Forecast
from dunwu.build.inputs import corpus_inputs
from dunwu.build.meters import resident_bytes
from dunwu.core.recipe import PythonDocsSource, Recipe
from dunwu.corpus.pipeline import build_corpus

CORPUS_BYTES = 300_000_000  # what the pipeline holds at most, whatever the size of the corpus


def _settings(recipe: Recipe) -> Mapping[str, Any]:
    section = recipe.corpus.model_dump(mode="json", exclude={"workers", "decontaminate_files"})
    for source in section["sources"]:
        source.pop("path", None)  # what the files hold counts, not where they lie
    settings: dict[str, Any] = {"corpus": section, "seed": recipe.seed}
    if recipe.corpus.decontaminate and world_of(recipe) is not None:
        settings["exam_questions"] = recipe.evaluate.exam_questions  # how many texts must not be learned
    if any(isinstance(source, PythonDocsSource) for source in recipe.corpus.sources):
        settings["python"] = platform.python_version()
    return settings


def _forecast(outlook: Outlook) -> Forecast:
    sizes = text_bytes(outlook.recipe)
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
        work.recipe.corpus,
        work.folder,
        seed=work.recipe.seed,
        exam_texts=exam_texts(work.recipe),
        progress=work.progress,
    )
    return Outcome(facts=asdict(facts))


CORPUS = Stage(
    name="corpus",
    title="Reading documents",
    version="1",
    needs=(),
    settings=_settings,
    inputs=corpus_inputs,
    forecast=_forecast,
    run=_run,
    wanted=lambda recipe: not recipe.only_tunes,
)
