"""Learning from preferences, from the weights that fine-tuning left, those of pre-training, or a base's.

What methods compare with, the log-probabilities under the model as it was, is computed once and kept in the home, by what it
follows from: another method or another beta finds it there.

Facts: those of `TrainResult` and of `Preferences`, and `objective`, `epochs`, `filled`, `row_length`, `preference` (see
`align/measure.py`, on pairs that were kept out); with a delta those of a delta; without a corpus `speed`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from dunwu.align.measure import preference_scores
from dunwu.align.reference import answer_logprobs, reference_logprobs
from dunwu.align.registry import PreferenceObjective
from dunwu.align.stream import AnswerStream
from dunwu.build.graph import Outcome, Outlook, Stage, Work
from dunwu.build.home import Figures, Forecast
from dunwu.build.inputs import prefer_inputs
from dunwu.build.judged_plan import judged_forecast, judged_settings, judged_start
from dunwu.build.learn import (
    PREFER_SHARE,
    copy_beside,
    freeze,
    gpu_peak,
    learn,
)
from dunwu.build.origin import origin
from dunwu.build.preferences import load_preferences
from dunwu.build.stages.sft import attached_delta, settle, start_delta, stop_ids, within_budget
from dunwu.build.training import REFERENCE_COST, expected_prefer_tokens
from dunwu.core.devices import pick_device, prepare_cpu
from dunwu.core.recipe import PreferenceSource, Recipe
from dunwu.model.blocks.rotary import depends_on_length
from dunwu.model.count import parameters, train_flops_per_token
from dunwu.model.decoder import Decoder
from dunwu.model.hub import load_model
from dunwu.tokenizer.load import load_tokenizer
from dunwu.train.learned import Deltas
from dunwu.train.loop import TrainResult

BATCHES = 64  # about so many in a run: 32 pairs of two hundred tokens each, where there are two thousand
LEAST_BATCH_TOKENS = 2048


def _settings(recipe: Recipe) -> Mapping[str, Any]:
    settings = judged_settings(recipe, "prefer", recipe.prefer)
    for told, source in zip(settings["prefer"]["sources"], recipe.prefer.sources, strict=True):
        if isinstance(source, PreferenceSource):
            del told["kind"]  # older homes stay done: sources were files
    return settings


def _forecast(outlook: Outlook) -> Forecast:
    section = outlook.recipe.prefer
    begin = judged_start(outlook, section)
    return judged_forecast(
        outlook,
        section,
        begin,
        wanted=expected_prefer_tokens(outlook.recipe, begin.bytes_per_token),
        batches=BATCHES,
        least_batch_tokens=LEAST_BATCH_TOKENS,
        rates=PREFER_SHARE,
        reading=REFERENCE_COST if section.objective.wants_reference else 1.0,
        still=("reward", "rl"),
        note=f"preferences: {section.objective.name}",
    )


def _run(work: Work) -> Outcome:
    prepare_cpu()
    recipe, section = work.recipe, work.recipe.prefer
    begin = origin(work)
    tokenizer = load_tokenizer(begin.tokenizer)
    model = load_model(begin.model, device=pick_device(), dtype=torch.float32 if recipe.only_tunes else None)
    stops = stop_ids(tokenizer, model.config)
    model.config = dataclasses.replace(model.config, eos_token_id=stops)
    context = begin.context_length
    found = load_preferences(recipe, tokenizer, context, work.progress, system_prompt=system_prompt(work))
    share = section.share_prompts and not depends_on_length(model.config)
    rows = max(1, work.resolved["micro_batch_tokens"] // context)

    def before(items: Any) -> Any:
        return reference_logprobs(model, items, work.home.reference, share=share, rows=rows, progress=work.progress)

    work.progress.start("Reading answers as the model was before")
    reference = before(found.items) if section.objective.wants_reference else None
    held_before = before(found.held_out) if found.facts["held_out_pairs"] else []
    work.progress.start(PREFER.title)
    freeze(model, section.freeze, "prefer")
    deltas = attached_delta(model, recipe, section.delta)
    stream = AnswerStream(
        found.items,
        least_width=context,
        seed=recipe.seed,
        share=share and row_wise(deltas),
        by_answer=section.objective.takes_single_answers,
        reference=reference,
    )
    result = _learned(work, model, stream, deltas)
    work.progress.start("Reading answers that were kept out")
    held_after = answer_logprobs(model, found.held_out, share=stream.share, rows=rows) if held_before else []
    of_delta = {} if deltas is None else settle(model, deltas, work.folder)
    copy_beside(work.folder, tokenizer, begin.tokenizer, begin.model, stops)
    flops = train_flops_per_token(model.config, stream.context_length, frozen=deltas is not None)
    return Outcome(
        facts={
            **asdict(result),
            **found.facts,
            **of_delta,
            "objective": section.objective.model_dump(mode="json"),
            "preference": preference_scores(found.held_out, held_before, held_after) if held_before else {},
            "epochs": result.tokens / (stream.rows_per_epoch * stream.context_length),
            "filled": stream.filled,
            "row_length": stream.context_length,
            "parameters": parameters(model.config),
            "model": asdict(model.config),
            "context_length": context,
            "speed": work.resolved["speed"],
        },
        actual=Figures(
            seconds=result.seconds,
            peak_bytes=gpu_peak(result),
            parameters=parameters(model.config),
            tokens=result.tokens,
            flops=result.tokens * flops,
        ),
    )


def _learned(work: Work, model: Decoder, stream: AnswerStream, deltas: Deltas | None) -> TrainResult:
    """Train on the stream, as long as the recipe and the budget say."""
    section = work.recipe.prefer
    work.progress.note(
        f"{stream.rows_per_epoch:,} rows of {stream.context_length} tokens a pass, {stream.filled:.1%} full"
    )
    one_epoch = stream.rows_per_epoch * stream.context_length
    wanted = section.tokens if section.tokens != "auto" else round(one_epoch * section.epochs)
    most = work.resolved["most_tokens"]
    chosen = _rows(work, stream)
    objective = PreferenceObjective(section.objective)
    start_delta(model, deltas, stream, chosen["micro_batch_rows"], objective)
    return learn(
        dataclasses.replace(work, resolved={**work.resolved, **chosen}),
        model,
        stream,
        section,
        total_tokens=within_budget(wanted, most, one_epoch, work.progress, "preferences", "prefer"),
        deltas=deltas,
        objective=objective,
    )


def system_prompt(work: Work) -> str:
    """What the model was tuned to: the recipe's, or else its base's."""
    if work.recipe.sft.system_prompt or "base" not in work.facts or "sft" in work.needs:
        return work.recipe.sft.system_prompt
    return work.facts["base"]["system_prompt"]


def row_wise(deltas: Deltas | None) -> bool:
    """Whether branches of a text stay blind to each other under the delta: whatever stands in front of a text is not."""
    return deltas is None or all(delta.row_wise or delta.mergeable for delta in deltas.deltas)


def _rows(work: Work, stream: AnswerStream) -> dict[str, int]:
    """The rows of a batch, and how many of them are computed at once."""
    width, at_once = stream.context_length, work.resolved["micro_batch_tokens"]
    rows = max(1, round(work.resolved["batch_tokens"] / width))
    whole = work.recipe.prefer.objective.over_the_batch
    return {"batch_rows": rows, "micro_batch_rows": rows if whole else max(1, min(rows, at_once // width))}


PREFER = Stage(
    name="prefer",
    title="Learning preferences",
    version="1",
    needs=("base", "tokenizer", "pretrain", "sft"),
    settings=_settings,
    inputs=prefer_inputs,
    forecast=_forecast,
    run=_run,
    wanted=lambda recipe: bool(recipe.prefer.sources),
)
