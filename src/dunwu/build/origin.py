"""What fine-tuning starts from: the model that pre-training left, or a base as it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dunwu.build import costs
from dunwu.build.base import base_folder
from dunwu.build.budget import MICRO_BATCH_TOKENS, choose_context_length
from dunwu.build.graph import Outlook, Work
from dunwu.build.learn import tuning_share
from dunwu.build.probe import TrainingSpeed
from dunwu.build.training import exact_speed, memory_limit, planned_speed
from dunwu.core.deltas import DeltaSpec
from dunwu.core.devices import pick_device
from dunwu.core.errors import RecipeError
from dunwu.core.recipe import PreferSection, Recipe, RewardSection, RlSection, SftSection
from dunwu.core.units import format_bytes
from dunwu.delta.registry import DELTAS
from dunwu.model.config import DecoderConfig
from dunwu.model.count import parameters, training_bytes
from dunwu.model.decoder import Decoder
from dunwu.tokenizer.load import load_tokenizer

Tuning = SftSection | PreferSection | RewardSection | RlSection
SAMPLED_BYTES = 200_000  # of conversations, to measure how much text a token of the base holds
FROZEN_SHARE = 0.7  # of the time of training all weights: what deltas on frozen ones take


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The folders of model and tokenizer, and the context to train in."""

    model: Path
    tokenizer: Path
    context_length: int


@dataclass(frozen=True, kw_only=True)
class Start:
    """What can be said before there are weights. `rate_share`: of a new model's learning rates. `tuned`: numbers of the delta
    that learn, None without one."""

    config: DecoderConfig
    context_length: int
    micro_batch_rows: int
    bytes_per_token: float
    speed: TrainingSpeed
    rate_share: float
    tuned: int | None

    def peak_bytes(self, rows: int, section: Tuning) -> int:
        """What training takes above what the process holds."""
        return training_bytes(self.config, rows, self.context_length, section.optimizer, tuned=self.tuned)


def origin(work: Work) -> Origin:
    """Where a stage that runs finds what it tunes: what was fine-tuned before, pre-trained, or the base."""
    for stage in ("prefer", "sft"):
        if stage in work.needs:
            folder = work.needs[stage]
            return Origin(model=folder, tokenizer=folder, context_length=work.facts[stage]["context_length"])
    if work.recipe.only_tunes:
        folder = base_folder(work.recipe, work.facts["base"]["revision"])
        return Origin(model=folder, tokenizer=folder, context_length=work.resolved["context_length"])
    return Origin(
        model=work.needs["pretrain"],
        tokenizer=work.needs["tokenizer"],
        context_length=work.facts["pretrain"]["context_length"],
    )


def start(outlook: Outlook, section: Tuning) -> Start:
    """The same for a forecast of what `section` tunes. Raises what a delta does that does not fit the model, RecipeError where
    memory is too small."""
    recipe = outlook.recipe
    base = outlook.facts["base"] if recipe.base else None
    share = tuning_share(recipe.pretrain, base)
    if recipe.only_tunes:
        assert base is not None
        return _from_base(recipe, base, share, section)
    pretrain = outlook.facts["pretrain"]
    config, speed = DecoderConfig(**pretrain["model"]), planned_speed(recipe, pretrain)
    tuned = _tuned(config, section.delta)
    if tuned is not None:
        speed = TrainingSpeed(token_s=speed.token_s * FROZEN_SHARE, step_s=speed.step_s * tuned / parameters(config))
    return Start(
        config=config,
        context_length=pretrain["context_length"],
        micro_batch_rows=pretrain["micro_batch_rows"],
        bytes_per_token=outlook.facts["tokenizer"]["bytes_per_token"],
        speed=speed,
        rate_share=share,
        tuned=tuned,
    )


def _from_base(recipe: Recipe, base: Mapping[str, Any], share: float, section: Tuning) -> Start:
    config = DecoderConfig(**base["model"])
    context = min(choose_context_length(recipe.model, parameters(config)), config.max_position_embeddings)
    tuned = _tuned(config, section.delta)
    rows = _micro_batch_rows(recipe, section, config, context, tuned)
    return Start(
        config=config,
        context_length=context,
        micro_batch_rows=rows,
        bytes_per_token=_bytes_per_token(recipe),
        speed=exact_speed(recipe, config, context, rows, section=section, delta=section.delta),
        rate_share=share,
        tuned=tuned,
    )


def _micro_batch_rows(recipe: Recipe, section: Tuning, config: DecoderConfig, context: int, tuned: int | None) -> int:
    """Rows computed at once, as many as keep the machine busy and memory holds. Raises RecipeError where it holds not one."""
    if section.micro_batch_rows != "auto":
        return section.micro_batch_rows
    limit, rows = memory_limit(recipe), max(1, MICRO_BATCH_TOKENS[pick_device().type] // context)
    while rows and training_bytes(config, rows, context, section.optimizer, tuned=tuned) > limit:
        rows //= 2
    if not rows:
        least = training_bytes(config, 1, context, section.optimizer, tuned=tuned)
        key = next(name for name in ("sft", "prefer", "reward", "rl") if getattr(recipe, name) is section)
        remedy = "lower model.context_length" if tuned is not None else f"tune a delta with {key}.delta.method=lora"
        raise RecipeError(
            f"fine-tuning takes {format_bytes(least)} with one row of {context} tokens, and there are {format_bytes(limit)}: "
            f"{remedy}, or raise memory"
        )
    return rows


def _tuned(config: DecoderConfig, spec: DeltaSpec | None) -> int | None:
    if spec is None:
        return None
    with torch.device("meta"):
        model = Decoder(config)
    return DELTAS[spec.name](model, spec, seed=0).count


def _bytes_per_token(recipe: Recipe) -> float:
    """Of the beginning of the conversations, in the base's vocabulary."""
    tokenizer = load_tokenizer(base_folder(recipe, weights=False))
    texts: list[str] = []
    size = 0
    for messages in costs.tuning_messages(recipe):
        texts += [message.content for message in messages]
        size += sum(len(message.content.encode("utf-8")) for message in messages)
        if size > SAMPLED_BYTES:
            break
    return tokenizer.bytes_per_token(texts) if texts else 4.0
