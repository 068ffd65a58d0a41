"""Supervised fine-tuning on conversations, from the pre-trained weights: a Hugging Face directory that answers.

Facts: those of `TrainResult` and of `Conversations`, and `epochs`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dunwu.build.base import require_chat
from dunwu.build.budget import batch_rows
from dunwu.build.conversations import load_conversations
from dunwu.build.graph import Outcome, Outlook, Stage, Work
from dunwu.build.home import Figures, Forecast
from dunwu.build.inputs import sft_inputs
from dunwu.build.learn import (
    add_stop_ids,
    copy_generation_settings,
    copy_tokenizer,
    freeze,
    gpu_peak,
    learn,
    peak_rates,
    tuning_share,
    without_unused,
)
from dunwu.build.meters import resident_bytes
from dunwu.build.training import expected_sft_tokens, planned_speed, sft_limit
from dunwu.core.devices import pick_device
from dunwu.core.progress import Progress
from dunwu.core.recipe import Recipe
from dunwu.core.units import parse_duration
from dunwu.model.config import DecoderConfig
from dunwu.model.count import parameters, train_flops_per_token, training_bytes
from dunwu.model.hub import load_model
from dunwu.tokenizer.bpe import Tokenizer
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.load import load_tokenizer

NOT_IN_THE_RESULT = {"tensorboard", "checkpoint_every_s", "checkpoints_kept", "micro_batch_rows"}


def _settings(recipe: Recipe) -> Mapping[str, Any]:
    section = without_unused(recipe.sft.model_dump(mode="json", exclude=NOT_IN_THE_RESULT))
    for source in section["sources"]:
        source.pop("path", None)
        if "phrasings" in source:  # what the files hold counts, not where they lie
            source["phrasings"] = [Path(name).name for name in source["phrasings"]]
    settings: dict[str, Any] = {"sft": section, "seed": recipe.seed}
    if recipe.sft.tokens == "auto":
        settings["budget_s"] = parse_duration(recipe.budget)
    return settings


def _forecast(outlook: Outlook) -> Forecast:
    recipe, pretrain = outlook.recipe, outlook.facts["pretrain"]
    base = outlook.facts["base"] if recipe.base else None
    if base is not None:
        require_chat(recipe, base["chat_fault"])  # the base may have been looked at before there was fine-tuning
    config = DecoderConfig(**pretrain["model"])
    context, section = pretrain["context_length"], recipe.sft
    wanted = expected_sft_tokens(recipe, outlook.facts["tokenizer"]["bytes_per_token"])
    rows = batch_rows(section, wanted, context)
    micro_rows = min(rows, pretrain["micro_batch_rows"])
    speed = planned_speed(recipe, pretrain)
    most = None if section.tokens != "auto" else sft_limit(outlook, speed, rows * context)
    tokens = wanted if most is None else min(wanted, most)
    lr_muon, lr_adamw = peak_rates(section, config, scale=tuning_share(recipe.pretrain, base))
    return Forecast(
        resolved={
            "batch_rows": rows,
            "micro_batch_rows": micro_rows,
            "most_tokens": most,
            "lr_muon": lr_muon,
            "lr_adamw": lr_adamw,
        },
        predicted=Figures(
            seconds=speed.seconds(tokens, rows * context),
            peak_bytes=resident_bytes() + training_bytes(config, micro_rows, context, section.optimizer),
            parameters=parameters(config),
            tokens=tokens,
            flops=tokens * train_flops_per_token(config, context),
        ),
        facts={"tokens": tokens},
    )


def _run(work: Work) -> Outcome:
    section = work.recipe.sft
    tokenizer = load_tokenizer(work.needs["tokenizer"])
    model = load_model(work.needs["pretrain"], device=pick_device())
    stops = _stop_ids(tokenizer, model.config)
    model.config = dataclasses.replace(model.config, eos_token_id=stops)
    freeze(model, section.freeze, "sft")
    context = work.facts["pretrain"]["context_length"]
    found = load_conversations(work.recipe, tokenizer, context, work.progress)
    stream = found.stream
    one_epoch = stream.rows_per_epoch * context
    wanted = section.tokens if section.tokens != "auto" else round(one_epoch * section.epochs)
    tokens = within_budget(wanted, work.resolved["most_tokens"], one_epoch, work.progress)
    result = learn(work, model, stream, section, total_tokens=tokens)
    copy_tokenizer(work.needs["tokenizer"], work.folder)
    if not isinstance(tokenizer, Tokenizer):
        copy_generation_settings(work.needs["pretrain"], work.folder)
        add_stop_ids(work.folder, stops)
    return Outcome(
        facts={
            **asdict(result),
            **found.facts,
            "epochs": result.tokens / one_epoch,
            "parameters": parameters(model.config),
            "model": asdict(model.config),
            "context_length": context,
        },
        actual=Figures(
            seconds=result.seconds,
            peak_bytes=gpu_peak(result),
            parameters=parameters(model.config),
            tokens=result.tokens,
            flops=result.tokens * train_flops_per_token(model.config, context),
        ),
    )


def _stop_ids(tokenizer: TokenizerLike, config: DecoderConfig) -> tuple[int, ...]:
    """What ends an answer or a text, for other engines, which look into the model's files and not at its template."""
    if isinstance(tokenizer, Tokenizer):
        return (tokenizer.im_end_id, tokenizer.eos_id)
    own = config.eos_token_id
    named = () if own is None else (own,) if isinstance(own, int) else own
    return tuple(dict.fromkeys((*named, *tokenizer.stop_ids)))


def within_budget(wanted: int, most: int | None, one_epoch: int, progress: Progress) -> int:
    """The tokens to train on, of those wanted; says so where the budget cuts them."""
    if most is None or most >= wanted:
        return wanted
    progress.note(
        f"the budget leaves time for {most / one_epoch:.2f} of {wanted / one_epoch:.2f} passes over the conversations; "
        "a larger budget, a smaller pretrain.tokens or fixed sft.tokens give fine-tuning more"
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
    wanted=lambda recipe: bool(recipe.sft.sources),
)
