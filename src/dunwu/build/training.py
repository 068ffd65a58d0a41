"""How the budget's time and memory are shared out between pre-training, fine-tuning and evaluation, at this machine's measured speed."""

from collections.abc import Collection, Mapping
from typing import Any

import psutil
import torch

from dunwu.build import costs
from dunwu.build.budget import (
    Choice,
    Limits,
    Speed,
    Speedometer,
    candidates,
    choose,
    choose_context_length,
    plan_training,
)
from dunwu.build.graph import Outlook
from dunwu.build.grow import grown_config
from dunwu.build.meters import resident_bytes
from dunwu.build.probe import TrainingSpeed, probe_training
from dunwu.core.deltas import DeltaSpec
from dunwu.core.devices import pick_device
from dunwu.core.errors import RecipeError
from dunwu.core.recipe import Recipe, TrainSection
from dunwu.core.units import format_bytes, format_count, format_duration, parse_bytes, parse_duration
from dunwu.model.config import DecoderConfig
from dunwu.model.count import parameters

LATER = ("prefer", "reward", "rl")  # stages of training after fine-tuning
ANCHORS = {"cpu": ((128, 4), (256, 6)), "cuda": ((512, 8), (1024, 16))}
ANCHOR_VOCAB_SIZE = 4096
ANCHOR_PROBE_S = 1.0
EXACT_PROBE_SHARE, EXACT_PROBE_S = 0.01, (2.0, 20.0)  # of the budget, at least and at most
RL_SHARE = 0.25  # of the budget, kept for reinforcement learning
REWARD_SHARE = 0.25  # the most of the budget that is kept for a reward model
PREFER_SHARE = 0.25  # the most of the budget that is kept for learning from preferences
REFERENCE_COST = 4 / 3  # of training on an answer: training, and reading it once before
BYTES_A_TOKEN = 3.5  # where no vocabulary was asked
SFT_SHARE = 0.4  # the most of the training time that fine-tuning may take
SAFETY = 0.96  # of the time left: checkpoints, start-up, and a machine that is a little busier than at the probe
FREE_MEMORY_SHARE = 0.8
LEAST_TRAIN_S = 10.0
CHAT_OVERHEAD = 1.25  # tokens of roles and packing beside the text of conversations


def pretrain_choice(outlook: Outlook) -> Choice:
    """Shape, batch and tokens of pre-training, from the facts (or forecasts) of corpus and tokenizer.

    Raises RecipeError when the budget leaves too little, with the least that works.
    """
    recipe, facts = outlook.recipe, _facts(outlook)
    if recipe.base:
        return _continued_choice(outlook)
    exact = _exact_probe(recipe)
    speed = _estimated_speed(recipe) if len(candidates(recipe.model, facts["vocab_size"])) > 1 else exact
    left_s = parse_duration(recipe.budget) - outlook.spent_s
    limits = _limits(recipe, facts["train_tokens"], max(left_s * 0.7, LEAST_TRAIN_S))
    first = choose(recipe.model, recipe.pretrain, facts["vocab_size"], limits, speed)
    limits = _limits(recipe, facts["train_tokens"], _pretrain_seconds(outlook, first, left_s))
    choice = choose(recipe.model, recipe.pretrain, facts["vocab_size"], limits, speed)
    return plan_training(choice.config, recipe.pretrain, limits, exact) or choice


def _continued_choice(outlook: Outlook) -> Choice:
    """Batch and tokens for the base's shape: all that there is to choose."""
    recipe, facts = outlook.recipe, _facts(outlook)
    config = grown_config(DecoderConfig(**outlook.facts["base"]["model"]), facts["vocab_size"])
    context = min(choose_context_length(recipe.model, parameters(config)), config.max_position_embeddings)
    exact = _exact_probe(recipe)
    left_s = parse_duration(recipe.budget) - outlook.spent_s
    share = recipe.replay.share if recipe.replay.sources else 0.0
    tokens = facts["train_tokens"] / (1.0 - share)

    def choice(train_s: float) -> Choice:
        limits = _limits(recipe, tokens, train_s)
        found = plan_training(config, recipe.pretrain, limits, exact, context_length=context)
        if found is None:
            raise RecipeError(
                f"the base's {format_count(parameters(config))} parameters cannot be trained in {format_duration(train_s)} "
                f"and {format_bytes(limits.memory_bytes)} with a context of {context}: raise budget or memory, lower "
                "model.context_length, or write pretrain.tokens and pretrain.micro_batch_rows yourself"
            )
        return found

    return choice(_pretrain_seconds(outlook, choice(max(left_s * 0.7, LEAST_TRAIN_S)), left_s))


def affordable_parameters(outlook: Outlook) -> int:
    """Parameters of the model that the budget will about allow, before there is a vocabulary."""
    recipe, corpus = outlook.recipe, outlook.facts["corpus"]
    open_shapes = candidates(recipe.model, ANCHOR_VOCAB_SIZE)
    if len(open_shapes) == 1:
        return parameters(open_shapes[0])
    train_s = max(LEAST_TRAIN_S, 0.7 * (parse_duration(recipe.budget) - outlook.spent_s))
    limits = _limits(recipe, corpus["train_bytes"] / 3.5, train_s)
    return parameters(choose(recipe.model, recipe.pretrain, ANCHOR_VOCAB_SIZE, limits, _estimated_speed(recipe)).config)


def tuning_limit(outlook: Outlook, speed: TrainingSpeed, batch_tokens: int, *, still: Collection[str] = LATER) -> int:
    """The most tokens that a stage of tuning may take in what the stages before leave of the budget; `still`: which of those
    after it are to come.

    Counted from what the stages before were expected to take, not from the clock: a build that was interrupted fine-tunes as
    long as one that was not, and so ends in the same weights.
    """
    left_s = parse_duration(outlook.recipe.budget) - outlook.predicted_s - after_training_s(outlook, speed, still=still)
    return max(speed.tokens(left_s * SAFETY, batch_tokens), batch_tokens)


def planned_speed(recipe: Recipe, pretrain: Mapping[str, Any]) -> TrainingSpeed:
    """The speed by which pre-training was planned, from its facts; measured anew where an older version left none there."""
    if pretrain.get("speed"):
        return TrainingSpeed(**pretrain["speed"])
    config = DecoderConfig(**pretrain["model"])
    return exact_speed(recipe, config, pretrain["context_length"], pretrain["micro_batch_rows"])


def exact_speed(
    recipe: Recipe,
    config: DecoderConfig,
    context_length: int,
    rows: int,
    *,
    section: TrainSection | None = None,
    delta: DeltaSpec | None = None,
) -> TrainingSpeed:
    """A few real steps of this very shape, as the section trains (by default pre-training), or of a delta on it."""
    section = section or recipe.pretrain
    seconds = _exact_seconds(recipe)
    return probe_training(config, section, context_length=context_length, rows=rows, seconds=seconds, delta=delta)


def after_training_s(outlook: Outlook, speed: TrainingSpeed, *, still: Collection[str] = LATER) -> float:
    """What evaluation and report will take, and before them those of `still` that the recipe has."""
    return _measuring_s(outlook, speed) + sum(_later_s(outlook, speed, stage) for stage in still)


def _later_s(outlook: Outlook, speed: TrainingSpeed, stage: str) -> float:
    """The time that is kept for a stage after fine-tuning: what it wants, at most its share of the budget."""
    recipe, budget_s = outlook.recipe, parse_duration(outlook.recipe.budget)
    match stage:
        case "rl" if recipe.rl.sources:
            return RL_SHARE * budget_s
        case "reward" if recipe.reward.sources:
            wanted_s = expected_reward_tokens(recipe, BYTES_A_TOKEN) * speed.token_s
            return wanted_s if recipe.reward.tokens != "auto" else min(wanted_s, REWARD_SHARE * budget_s)
        case "prefer" if recipe.prefer.sources:
            wanted_s = expected_prefer_tokens(recipe, BYTES_A_TOKEN) * speed.token_s * REFERENCE_COST
            return wanted_s if recipe.prefer.tokens != "auto" else min(wanted_s, PREFER_SHARE * budget_s)
        case _:
            return 0.0


def _measuring_s(outlook: Outlook, speed: TrainingSpeed) -> float:
    if outlook.recipe.only_scores:
        return costs.REPORT_S
    if outlook.recipe.only_tunes:
        return costs.REPORT_S + costs.tuned_seconds(outlook.recipe, token_s=speed.token_s)
    facts = _facts(outlook)
    return costs.REPORT_S + costs.evaluate_seconds(
        outlook.recipe,
        train_bytes=facts["train_bytes"],
        heldout_bytes=facts["heldout_bytes"],
        token_s=speed.token_s,
        bytes_per_token=facts["bytes_per_token"],
    )


def expected_sft_tokens(recipe: Recipe, bytes_per_token: float) -> int:
    """Tokens of all epochs of fine-tuning, if time allows."""
    if recipe.sft.tokens != "auto":
        return recipe.sft.tokens
    return int(recipe.sft.epochs * costs.sft_bytes(recipe) / bytes_per_token * CHAT_OVERHEAD)


def expected_prefer_tokens(recipe: Recipe, bytes_per_token: float) -> int:
    """Places in rows of all epochs of preferences, if time allows."""
    if recipe.prefer.tokens != "auto":
        return recipe.prefer.tokens
    return int(recipe.prefer.epochs * costs.prefer_bytes(recipe) / bytes_per_token * CHAT_OVERHEAD)


def expected_reward_tokens(recipe: Recipe, bytes_per_token: float) -> int:
    """Places in rows of all epochs of judgements, if time allows."""
    if recipe.reward.tokens != "auto":
        return recipe.reward.tokens
    return int(recipe.reward.epochs * costs.reward_bytes(recipe) / bytes_per_token * CHAT_OVERHEAD)


def _pretrain_seconds(outlook: Outlook, choice: Choice, left_s: float) -> float:
    """The time for pre-training: what is left but for fine-tuning's share, evaluation and report."""
    recipe = outlook.recipe
    token_s = choice.seconds / choice.tokens
    after_s = after_training_s(outlook, TrainingSpeed(token_s=token_s, step_s=0.0))
    training_s = (left_s - after_s) * SAFETY
    sft_s = 0.0
    if recipe.sft.sources:
        wanted_s = expected_sft_tokens(recipe, _facts(outlook)["bytes_per_token"]) * token_s
        sft_s = wanted_s if recipe.sft.tokens != "auto" else min(wanted_s, SFT_SHARE * training_s)
    if training_s - sft_s < LEAST_TRAIN_S and recipe.pretrain.tokens == "auto":
        least_s = outlook.spent_s + after_s + (LEAST_TRAIN_S + sft_s) / SAFETY
        raise RecipeError(
            f"budget={recipe.budget} is too small: reading, evaluating and reporting take "
            f"{format_duration(outlook.spent_s + after_s)} of it; the least that works here is about "
            f"budget={round(least_s * 1.2 + 5)}s (evaluate.baselines=false and smaller evaluate.* take less)"
        )
    return max(training_s - sft_s, LEAST_TRAIN_S)


def _limits(recipe: Recipe, corpus_tokens: float, train_s: float) -> Limits:
    return Limits(
        train_s=train_s,
        memory_bytes=memory_limit(recipe),
        corpus_tokens=max(1, int(corpus_tokens)),
        device=pick_device().type,
    )


def memory_limit(recipe: Recipe) -> int:
    """What training may take above what the process holds. Raises RecipeError when `memory` is less than that already."""
    if recipe.memory != "auto":
        room = parse_bytes(recipe.memory) - resident_bytes()
        if room <= 0:
            raise RecipeError(
                f"memory={recipe.memory} is less than the program itself takes; the least is about memory=1GB"
            )
        return room
    free = torch.cuda.mem_get_info()[0] if pick_device().type == "cuda" else psutil.virtual_memory().available
    return int(FREE_MEMORY_SHARE * free)


def _estimated_speed(recipe: Recipe) -> Speed:
    device = pick_device().type
    probe = _probe(recipe, ANCHOR_PROBE_S)
    return Speedometer(probe, ANCHOR_VOCAB_SIZE, ANCHORS[device], launches=device == "cuda")


def _exact_probe(recipe: Recipe) -> Speed:
    return _probe(recipe, _exact_seconds(recipe))


def _exact_seconds(recipe: Recipe) -> float:
    least, most = EXACT_PROBE_S
    return min(max(EXACT_PROBE_SHARE * parse_duration(recipe.budget), least), most)


def _probe(recipe: Recipe, seconds: float) -> Speed:
    def speed(config: DecoderConfig, context_length: int, rows: int) -> TrainingSpeed:
        return probe_training(config, recipe.pretrain, context_length=context_length, rows=rows, seconds=seconds)

    return speed


def _facts(outlook: Outlook) -> Mapping[str, Any]:
    return {**outlook.facts["corpus"], **outlook.facts["tokenizer"]}
