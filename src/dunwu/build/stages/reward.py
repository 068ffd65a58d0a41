"""A reward model, from the weights that the stages before left, or a base's: what people prefer, as a score of an answer.

The folder is a Hugging Face directory of its own kind (see `align/reward/disk.py`); it is no finished model to chat with.

Facts: those of `TrainResult` and of `Judgements`, and `objective`, `epochs`, `filled`, `row_length`, `reward_model` (as in its
`dunwu.json`), `held_out_measures` and `exam_measures` (see `align/reward/measure.py`); with a delta `delta`, `tuned_parameters`,
`merge_error`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from dunwu.align.answers import CHOSEN, REJECTED
from dunwu.align.reward.disk import class_for_scoring, facts_of, padding_id, save_reward_model
from dunwu.align.reward.items import Judged, JudgedStream
from dunwu.align.reward.learned import RewardDeltas, WholeRewardModel
from dunwu.align.reward.measure import ScoredPairs, ScoredSteps, pair_measures, step_measures
from dunwu.align.reward.model import Ensemble, RewardModel, new_reward_model
from dunwu.align.reward.objective import PairObjective, StepObjective
from dunwu.align.reward.scoring import score_items
from dunwu.build.base import base_name
from dunwu.build.graph import Outcome, Outlook, Stage, Work
from dunwu.build.home import ADAPTER, Figures, Forecast
from dunwu.build.inputs import reward_inputs
from dunwu.build.judged_plan import judged_forecast, judged_settings, judged_start
from dunwu.build.judgements import load_judgements
from dunwu.build.learn import copy_tokenizer, freeze, gpu_peak
from dunwu.build.origin import origin
from dunwu.build.stages.prefer import row_wise, system_prompt
from dunwu.build.stages.sft import start_delta, within_budget
from dunwu.build.training import expected_reward_tokens
from dunwu.core.devices import measure_matmul_flops, pick_device, pick_dtype, prepare_cpu
from dunwu.core.recipe import Recipe
from dunwu.core.rewardmodel import PairsSpec
from dunwu.delta.places import FewBits
from dunwu.delta.quantise import dequantise, quantise_base
from dunwu.delta.registry import attach
from dunwu.delta.storing import load_delta
from dunwu.model.blocks.rotary import depends_on_length
from dunwu.model.count import parameters, train_flops_per_token
from dunwu.model.hub import load_model
from dunwu.tokenizer.load import load_tokenizer
from dunwu.train.loop import TrainResult, fit
from dunwu.train.optim import build_delta_optimizer, build_optimizer
from dunwu.train.signals import StopSignal

BATCHES = 600  # about so many in a run
RATES = 5 / 3  # of those of fine-tuning, at which the small world's pairs were learned best (docs/log.md)
LEAST_BATCH_TOKENS = 1024
Learned = WholeRewardModel | RewardDeltas


def _settings(recipe: Recipe) -> Mapping[str, Any]:
    return judged_settings(recipe, "reward", recipe.reward)


def _forecast(outlook: Outlook) -> Forecast:
    section = outlook.recipe.reward
    begin = judged_start(outlook, section)
    class_for_scoring(begin.config)  # before the time is spent, not after
    return judged_forecast(
        outlook,
        section,
        begin,
        wanted=expected_reward_tokens(outlook.recipe, begin.bytes_per_token),
        batches=BATCHES,
        least_batch_tokens=LEAST_BATCH_TOKENS,
        rates=RATES,
        still=("rl",),
        note=f"reward model: {section.objective.method}{_of_heads(section.heads)}",
    )


def _of_heads(heads: int) -> str:
    return "" if heads == 1 else f", {heads} heads"


def _run(work: Work) -> Outcome:
    prepare_cpu()
    recipe, section = work.recipe, work.recipe.reward
    begin = origin(work)
    tokenizer = load_tokenizer(begin.tokenizer)
    decoder = load_model(begin.model, device=pick_device(), dtype=torch.float32 if recipe.only_tunes else None)
    pad_id = padding_id(tokenizer, decoder.config)
    found = load_judgements(recipe, tokenizer, begin.context_length, work.progress, system_prompt=system_prompt(work))
    model = new_reward_model(
        decoder,
        seed=recipe.seed,
        heads=section.heads,
        ensemble=Ensemble(combine=section.combine, caution=section.caution),
        reads="answer" if isinstance(section.objective, PairsSpec) else "steps",
        tie_threshold=found.tie_threshold,
    )
    freeze(decoder, section.freeze, "reward")
    learned = _what_learns(model, recipe, pad_id)
    deltas = learned if isinstance(learned, RewardDeltas) else None
    stream = JudgedStream(
        found.learned,
        least_width=begin.context_length,
        seed=recipe.seed,
        share=section.share_prompts and not depends_on_length(decoder.config) and row_wise(deltas),
        heads=section.heads,
    )
    result = _fit(work, model, stream, learned)
    of_delta = {} if deltas is None else _settle(work, model, deltas, pad_id)
    copy_tokenizer(begin.tokenizer, work.folder)
    work.progress.start("Scoring answers that were kept out")
    flops = train_flops_per_token(decoder.config, stream.context_length, frozen=deltas is not None)
    return Outcome(
        facts={
            **asdict(result),
            **found.facts,
            **of_delta,
            "objective": section.objective.model_dump(mode="json"),
            "reward_model": facts_of(model),
            "held_out_measures": _measures(model, found.held_out, recipe.seed),
            "exam_measures": _measures(model, found.exam, recipe.seed),
            "epochs": result.tokens / (stream.rows_per_epoch * stream.context_length),
            "filled": stream.filled,
            "row_length": stream.context_length,
            "parameters": parameters(decoder.config),
            "model": asdict(decoder.config),
            "context_length": begin.context_length,
            "speed": work.resolved["speed"],
        },
        actual=Figures(
            seconds=result.seconds,
            peak_bytes=gpu_peak(result),
            parameters=parameters(decoder.config),
            tokens=result.tokens,
            flops=result.tokens * flops,
        ),
    )


def _what_learns(model: RewardModel, recipe: Recipe, pad_id: int) -> Learned:
    section = recipe.reward
    if section.delta is None:
        return WholeRewardModel(model, pad_id=pad_id)
    quantise_base(model.decoder, section.base_weights)
    delta = attach(model.decoder, section.delta, seed=recipe.seed)
    return RewardDeltas(model, delta, name=ADAPTER, base_name=base_name(recipe) if recipe.base else recipe.name)


def _fit(work: Work, model: RewardModel, stream: JudgedStream, learned: Learned) -> TrainResult:
    """Train on the stream, as long as the recipe and the budget say; goes on by itself where it was interrupted."""
    section, chosen, width = work.recipe.reward, work.resolved, stream.context_length
    one_epoch = stream.rows_per_epoch * width
    work.progress.start(REWARD.title)
    work.progress.note(f"{stream.rows_per_epoch:,} rows of {width} tokens a pass, {stream.filled:.1%} full")
    wanted = section.tokens if section.tokens != "auto" else round(one_epoch * section.epochs)
    rows = max(1, round(chosen["batch_tokens"] / width))
    at_once = max(1, min(rows, chosen["micro_batch_tokens"] // width))
    spec, device = section.objective, pick_device()
    objective = PairObjective(model, centring=spec.centring) if isinstance(spec, PairsSpec) else StepObjective(model)
    if isinstance(learned, RewardDeltas):
        optimizer = build_delta_optimizer(learned, section, chosen["lr_adamw"])
        start_delta(model.decoder, learned, stream, at_once, objective)
    else:
        optimizer = build_optimizer(model, section, (chosen["lr_muon"], chosen["lr_adamw"]))
    with StopSignal() as stop:
        return fit(
            model.decoder,
            stream,
            objective,
            optimizer,
            section,
            total_tokens=within_budget(wanted, chosen["most_tokens"], one_epoch, work.progress, "judgements", "reward"),
            batch_rows=rows,
            micro_batch_rows=at_once,
            folder=work.folder,
            seed=work.recipe.seed,
            progress=work.progress,
            stop=stop,
            learned=learned,
            flops_per_token=train_flops_per_token(model.config, width, frozen=isinstance(learned, RewardDeltas)),
            peak_flops=measure_matmul_flops(device, pick_dtype(device, section.dtype)),
        )


def _settle(work: Work, model: RewardModel, learned: RewardDeltas, pad_id: int) -> dict[str, Any]:
    """Put what was learned into the decoder's weights, which become float ones first, and write the whole model."""
    (delta,) = learned.deltas
    facts = {"delta": delta.spec.model_dump(mode="json"), "tuned_parameters": delta.count, "merged": True}
    if any(isinstance(module, FewBits) for module in model.modules()):
        delta.detach()
        delta = load_delta(work.folder / ADAPTER, dequantise(model.decoder), any_base=True)
    facts["merge_error"] = delta.absorb().error
    save_reward_model(model, work.folder, pad_id=pad_id)
    return facts


def _measures(model: RewardModel, judged: Sequence[Judged], seed: int) -> dict[str, Any]:
    """How far its scores can be trusted on judgements that it did not learn; ties are left out."""
    scores = [model.ensemble(torch.from_numpy(one)).numpy() for one in score_items(model, [one.item for one in judged])]
    if model.reads == "steps":
        steps = [
            ScoredSteps(scores=values.astype(np.float64), labels=np.array(one.labels))
            for one, values in zip(judged, scores, strict=True)
        ]
        return step_measures(steps)
    won = [(one, values) for one, values in zip(judged, scores, strict=True) if not one.tie]
    sides = [[answer.kind for answer in one.item.answers].index(kind) for kind in (CHOSEN, REJECTED) for one, _ in won]
    first, second = sides[: len(won)], sides[len(won) :]

    def column(place: Sequence[int], of: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        chosen = [(values if of == "score" else one.lengths)[at] for (one, values), at in zip(won, place, strict=True)]
        return np.array(chosen, np.float64)

    pairs = ScoredPairs(
        chosen=column(first, "score"),
        rejected=column(second, "score"),
        chosen_length=column(first, "length"),
        rejected_length=column(second, "length"),
    )
    return pair_measures(pairs, tie_threshold=model.tie_threshold, seed=seed)


REWARD = Stage(
    name="reward",
    title="Learning a reward model",
    version="1",
    needs=("base", "tokenizer", "pretrain", "sft", "prefer"),
    settings=_settings,
    inputs=reward_inputs,
    forecast=_forecast,
    run=_run,
    wanted=lambda recipe: bool(recipe.reward.sources),
)
