"""What learning preferences and making a reward model share in planning: what the result follows from, batches, rates and costs."""

import dataclasses
import math
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from dunwu.build.base import require_chat
from dunwu.build.graph import Outlook
from dunwu.build.home import Figures, Forecast
from dunwu.build.learn import delta_rate, peak_rates, without_unused
from dunwu.build.meters import resident_bytes
from dunwu.build.origin import Start, start
from dunwu.build.stages.sft import NOT_IN_THE_RESULT
from dunwu.build.training import tuning_limit
from dunwu.core.recipe import PreferSection, Recipe, RewardSection
from dunwu.core.units import parse_duration
from dunwu.model.count import parameters, train_flops_per_token

MOST_BATCH_TOKENS = 65536
Judged = PreferSection | RewardSection


def judged_settings(recipe: Recipe, name: str, section: Judged) -> dict[str, Any]:
    """What the result of that stage depends on: what files hold counts, not where they lie."""
    told = without_unused(section.model_dump(mode="json", exclude=NOT_IN_THE_RESULT))
    for source in told["sources"]:
        source.pop("path", None)
    settings: dict[str, Any] = {name: told, "seed": recipe.seed, "system_prompt": recipe.sft.system_prompt}
    if recipe.only_tunes:
        settings["context_length"] = recipe.model.context_length
    if section.tokens == "auto":
        settings["budget_s"] = parse_duration(recipe.budget)
    return settings


def judged_start(outlook: Outlook, section: Judged) -> Start:
    """Where the stage begins. Raises RecipeError for a base that cannot chat."""
    if outlook.recipe.base:
        require_chat(outlook.recipe, outlook.facts["base"]["chat_fault"])
    return start(outlook, section)


def judged_forecast(
    outlook: Outlook,
    section: Judged,
    begin: Start,
    *,
    wanted: int,
    batches: int,
    least_batch_tokens: int,
    rates: float,
    reading: float = 1.0,
    still: Collection[str],
    note: str,
) -> Forecast:
    """Of `wanted` tokens in about so many `batches`, as far as the budget goes.

    `rates`: of those of fine-tuning; `reading`: what a token costs, in costs of training alone; `still`: stages that come after.
    """
    config, context = begin.config, begin.context_length
    batch_tokens = section.batch_tokens
    if batch_tokens == "auto":
        batch_tokens = 2 ** round(math.log2(min(max(wanted / batches, least_batch_tokens), MOST_BATCH_TOKENS)))
    speed = dataclasses.replace(begin.speed, token_s=begin.speed.token_s * reading)
    most = None if section.tokens != "auto" else tuning_limit(outlook, speed, batch_tokens, still=still)
    tokens = wanted if most is None else min(wanted, most)
    scale = begin.rate_share * rates
    lr_muon, lr_adamw = peak_rates(section, config, scale=scale)
    if section.delta is not None:
        lr_adamw = delta_rate(section, config, scale=scale)
    resolved: dict[str, Any] = {
        "batch_tokens": batch_tokens,
        "micro_batch_tokens": begin.micro_batch_rows * context,
        "most_tokens": most,
        "lr_muon": lr_muon,
        "lr_adamw": lr_adamw,
        "context_length": context,
        "speed": asdict(begin.speed),
    }
    return Forecast(
        resolved=resolved,
        predicted=Figures(
            seconds=speed.seconds(tokens, batch_tokens),
            peak_bytes=resident_bytes() + begin.peak_bytes(begin.micro_batch_rows, section),
            parameters=parameters(config),
            tokens=tokens,
            flops=tokens * train_flops_per_token(config, context, frozen=begin.tuned is not None),
        ),
        facts={"tokens": tokens, "speed": asdict(begin.speed), "context_length": context},
        note=note,
    )
