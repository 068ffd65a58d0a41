"""Supervised fine-tuning on conversations, from the pre-trained weights or a base's: a Hugging Face directory that answers.

With a delta the weights have what it learned merged in, and `adapter/` holds it by itself; of methods that cannot be merged the
weights are those of before.

Facts: those of `TrainResult` and of `Conversations`, and `epochs`; with a delta `delta`, `tuned_parameters`, `merge_error`;
without a corpus `held_out_conversations`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dunwu.build.base import base_name, require_chat
from dunwu.build.budget import batch_rows
from dunwu.build.conversations import load_conversations
from dunwu.build.graph import Outcome, Outlook, Stage, Work
from dunwu.build.held_out import held_out
from dunwu.build.home import ADAPTER, Figures, Forecast
from dunwu.build.inputs import sft_inputs
from dunwu.build.learn import (
    copy_beside,
    delta_rate,
    freeze,
    gpu_peak,
    learn,
    peak_rates,
    without_unused,
)
from dunwu.build.meters import resident_bytes
from dunwu.build.origin import origin, start
from dunwu.build.training import expected_sft_tokens, tuning_limit
from dunwu.core.deltas import DeltaSpec
from dunwu.core.devices import pick_device
from dunwu.core.progress import Progress
from dunwu.core.recipe import Recipe
from dunwu.core.units import format_count, parse_duration
from dunwu.corpus.stream import Stream
from dunwu.delta.places import FewBits
from dunwu.delta.quantise import dequantise, quantise_base
from dunwu.delta.registry import attach
from dunwu.delta.storing import load_delta
from dunwu.model.config import DecoderConfig
from dunwu.model.count import parameters, train_flops_per_token
from dunwu.model.decoder import Decoder
from dunwu.model.hub import load_model, save_model
from dunwu.tokenizer.bpe import Tokenizer
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.load import load_tokenizer
from dunwu.train.learned import Deltas
from dunwu.train.loop import Objective
from dunwu.train.neftune import neftune
from dunwu.train.objectives import causal_lm

START_BATCHES = 8  # that a delta may look at before it begins
NOT_IN_THE_RESULT = {"tensorboard", "checkpoint_every_s", "checkpoints_kept", "micro_batch_rows"}


def _settings(recipe: Recipe) -> Mapping[str, Any]:
    section = without_unused(recipe.sft.model_dump(mode="json", exclude=NOT_IN_THE_RESULT))
    for source in section["sources"]:
        source.pop("path", None)
        if "phrasings" in source:  # what the files hold counts, not where they lie
            source["phrasings"] = [Path(name).name for name in source["phrasings"]]
    settings: dict[str, Any] = {"sft": section, "seed": recipe.seed}
    if recipe.only_tunes:
        settings["context_length"] = recipe.model.context_length
    if recipe.sft.tokens == "auto":
        settings["budget_s"] = parse_duration(recipe.budget)
    return settings


def _forecast(outlook: Outlook) -> Forecast:
    recipe, section = outlook.recipe, outlook.recipe.sft
    if recipe.base:
        require_chat(
            recipe, outlook.facts["base"]["chat_fault"]
        )  # the base may have been looked at before there was tuning
    begin = start(outlook, section)
    config, context = begin.config, begin.context_length
    wanted = expected_sft_tokens(recipe, begin.bytes_per_token)
    rows = batch_rows(section, wanted, context)
    micro_rows = min(rows, begin.micro_batch_rows)
    most = None if section.tokens != "auto" else tuning_limit(outlook, begin.speed, rows * context)
    tokens = wanted if most is None else min(wanted, most)
    lr_muon, lr_adamw = peak_rates(section, config, scale=begin.rate_share)
    if section.delta is not None:
        lr_adamw = delta_rate(section, config, scale=begin.rate_share)
    resolved: dict[str, Any] = {
        "batch_rows": rows,
        "micro_batch_rows": micro_rows,
        "most_tokens": most,
        "lr_muon": lr_muon,
        "lr_adamw": lr_adamw,
    }
    if recipe.only_tunes:
        resolved |= {"context_length": context, "speed": asdict(begin.speed)}
    return Forecast(
        resolved=resolved,
        predicted=Figures(
            seconds=begin.speed.seconds(tokens, rows * context),
            peak_bytes=resident_bytes() + begin.peak_bytes(micro_rows, section),
            parameters=parameters(config),
            tokens=tokens,
            flops=tokens * train_flops_per_token(config, context, frozen=begin.tuned is not None),
        ),
        facts={"tokens": tokens, "speed": asdict(begin.speed), "bytes_per_token": begin.bytes_per_token},
        note="" if begin.tuned is None else _in_words(recipe, begin.tuned, parameters(config)),
    )


def _in_words(recipe: Recipe, tuned: int, count: int) -> str:
    delta = recipe.sft.delta
    assert delta is not None
    kept = "merged into its weights" if recipe.sft.delta_merged and delta.mergeable else "beside its weights"
    return f"{delta.name}: {format_count(tuned)} numbers learn on {format_count(count)} frozen ones; they end {kept}"


def _run(work: Work) -> Outcome:
    recipe, section = work.recipe, work.recipe.sft
    begin = origin(work)
    tokenizer = load_tokenizer(begin.tokenizer)
    model = load_model(begin.model, device=pick_device(), dtype=torch.float32 if recipe.only_tunes else None)
    stops = stop_ids(tokenizer, model.config)
    model.config = dataclasses.replace(model.config, eos_token_id=stops)
    freeze(model, section.freeze, "sft")
    held = held_out(recipe)
    found = load_conversations(recipe, tokenizer, begin.context_length, work.progress, without=held)
    stream = found.stream
    one_epoch = stream.rows_per_epoch * begin.context_length
    wanted = section.tokens if section.tokens != "auto" else round(one_epoch * section.epochs)
    tokens = within_budget(wanted, work.resolved["most_tokens"], one_epoch, work.progress)
    if section.delta is not None:
        quantise_base(model, section.base_weights)
    deltas = attached_delta(model, recipe, section.delta)
    start_delta(model, deltas, stream, work.resolved["micro_batch_rows"])
    with neftune(model, causal_lm, alpha=section.neftune_alpha) as objective:
        result = learn(work, model, stream, section, total_tokens=tokens, deltas=deltas, objective=objective)
    of_delta = {} if deltas is None else settle(model, deltas, work.folder)
    copy_beside(work.folder, tokenizer, begin.tokenizer, begin.model, stops)
    return Outcome(
        facts={
            **asdict(result),
            **found.facts,
            **of_delta,
            **({"held_out_conversations": len(held), "speed": work.resolved["speed"]} if recipe.only_tunes else {}),
            "epochs": result.tokens / one_epoch,
            "parameters": parameters(model.config),
            "model": asdict(model.config),
            "context_length": begin.context_length,
        },
        actual=Figures(
            seconds=result.seconds,
            peak_bytes=gpu_peak(result),
            parameters=parameters(model.config),
            tokens=result.tokens,
            flops=result.tokens * train_flops_per_token(model.config, begin.context_length, frozen=deltas is not None),
        ),
    )


def attached_delta(model: Decoder, recipe: Recipe, spec: DeltaSpec | None) -> Deltas | None:
    """The recipe's delta on the model, which is frozen then; None where all its weights learn."""
    if spec is None:
        return None
    delta = attach(model, spec, seed=recipe.seed)
    return Deltas([delta], name=ADAPTER, base_name=base_name(recipe) if recipe.base else recipe.name)


def start_delta(
    model: Decoder, deltas: Deltas | None, stream: Stream, rows: int, objective: Objective = causal_lm
) -> None:
    """Let deltas whose start depends on what they will learn look at the first of it."""
    device = pick_device()

    def read(number: int) -> object:
        batch = stream.batch(number * rows, rows).to(device)
        return objective(model, batch, total_learned=max(1, batch.learned_tokens))[0]

    for delta in () if deltas is None else deltas.deltas:
        delta.start_from(partial(read, number) for number in range(START_BATCHES))


def settle(model: Decoder, deltas: Deltas, folder: Path) -> dict[str, Any]:
    """Put what was learned into the weights, if the method can, and write them beside the delta, which lies there already.

    Weights of few bits become float ones again first: the finished model says what the tuned one said.
    """
    (delta,) = deltas.deltas
    facts = {"delta": delta.spec.model_dump(mode="json"), "tuned_parameters": delta.count, "merged": delta.mergeable}
    if any(isinstance(module, FewBits) for module in model.modules()):
        delta.detach()
        delta = load_delta(folder / ADAPTER, dequantise(model), any_base=True)
    if delta.mergeable:
        facts["merge_error"] = delta.absorb().error
    else:
        delta.detach()
    save_model(model, folder)
    return facts


def stop_ids(tokenizer: TokenizerLike, config: DecoderConfig) -> tuple[int, ...]:
    """What ends an answer or a text, for other engines, which look into the model's files and not at its template."""
    if isinstance(tokenizer, Tokenizer):
        return (tokenizer.im_end_id, tokenizer.eos_id)
    own = config.eos_token_id
    named = () if own is None else (own,) if isinstance(own, int) else own
    return tuple(dict.fromkeys((*named, *tokenizer.stop_ids)))


def within_budget(
    wanted: int,
    most: int | None,
    one_epoch: int,
    progress: Progress,
    what: str = "conversations",
    section: str = "sft",
) -> int:
    """The tokens to train on, of those wanted; says so where the budget cuts them."""
    if most is None or most >= wanted:
        return wanted
    progress.note(
        f"the budget leaves time for {most / one_epoch:.2f} of {wanted / one_epoch:.2f} passes over the {what}; "
        f"a larger budget gives more, and so does {section}.tokens as a number"
    )
    return most


SFT = Stage(
    name="sft",
    title="Fine-tuning",
    version="2",
    needs=("tokenizer", "pretrain"),
    settings=_settings,
    inputs=sft_inputs,
    forecast=_forecast,
    run=_run,
    wanted=lambda recipe: bool(recipe.sft.sources) and not recipe.only_tunes,
)

TUNE = dataclasses.replace(SFT, needs=("base",), wanted=lambda recipe: bool(recipe.sft.sources) and recipe.only_tunes)
"""The same on a base as it is."""
