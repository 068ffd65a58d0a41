"""What pre-training and fine-tuning share: the loop with this stage's choices, and the tokenizer beside the weights."""

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dunwu.align.value import ValueModel
from dunwu.build.base import GENERATION_FILE
from dunwu.build.graph import Work
from dunwu.core.devices import measure_matmul_flops, pick_device, pick_dtype, prepare_cpu
from dunwu.core.errors import RecipeError
from dunwu.core.files import disk_errors, read_json, write_json
from dunwu.core.modelfiles import TOKENIZER_FILES
from dunwu.core.recipe import PretrainSection, Recipe, TrainSection
from dunwu.corpus.stream import Stream
from dunwu.model.config import DecoderConfig
from dunwu.model.count import train_flops_per_token
from dunwu.model.decoder import Decoder
from dunwu.model.folder import copy_files
from dunwu.tokenizer.bpe import Tokenizer
from dunwu.tokenizer.like import TokenizerLike
from dunwu.train.alongside import Alongside
from dunwu.train.learned import Deltas, Learned
from dunwu.train.loop import Objective, TrainResult, fit
from dunwu.train.objectives import causal_lm
from dunwu.train.optim import build_delta_optimizer, build_optimizer, default_lrs, with_values
from dunwu.train.signals import StopSignal

PREFER_SHARE = (
    0.1  # of the rates of fine-tuning, for preferences: what counts is a difference, and a little moves it far
)
TUNING_SHARE = 0.3  # of a new model's peak learning rates, for fine-tuning: the weights know much already
SETTINGS_LATER_THAN_THEIR_STAGE = {
    "freeze": [],
    "rewarm": None,
    "delta": None,
    "delta_merged": True,
    "base_weights": "float",
    "snapshots": 0,
}  # left out at these values: older homes stay done


def without_unused(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a training stage without those that came later and do nothing here."""
    unused = {key for key, value in SETTINGS_LATER_THAN_THEIR_STAGE.items() if settings.get(key, value) == value}
    return {key: value for key, value in settings.items() if key not in unused}


def freeze(model: Decoder, patterns: Sequence[str], section: str) -> int:
    """Switch off learning for the parameters whose names fit one of `patterns`; returns how many numbers those are.

    They get no gradient and no state in the optimiser, and end as they began, bit for bit. Raises RecipeError for a pattern
    that fits nothing, and where nothing is left to learn.
    """
    named = dict(model.named_parameters())
    frozen = _frozen(list(named), patterns, section)
    for name in frozen:
        named[name].requires_grad_(False)
    return sum(named[name].numel() for name in frozen)


def require_freezable(recipe: Recipe, config: DecoderConfig) -> None:
    """Raise as `freeze` does, before there are weights: what the recipe freezes in a model of this shape."""
    sections = {"pretrain": recipe.pretrain, **({"sft": recipe.sft} if recipe.sft.sources else {})}
    sections |= {"prefer": recipe.prefer} if recipe.prefer.sources else {}
    sections |= {"reward": recipe.reward} if recipe.reward.sources else {}
    sections |= {"rl": recipe.rl} if recipe.rl.sources else {}
    if not any(section.freeze for section in sections.values()):
        return
    with torch.device("meta"):
        names = [name for name, _ in Decoder(config).named_parameters()]
    for name, section in sections.items():
        _frozen(names, section.freeze, name)


def _frozen(named: Sequence[str], patterns: Sequence[str], section: str) -> set[str]:
    frozen: set[str] = set()
    for pattern in patterns:
        found = {name for name in named if fnmatch.fnmatchcase(name, pattern)}
        if not found:
            near = difflib.get_close_matches(pattern, named, n=1, cutoff=0.0)
            raise RecipeError(f"{section}.freeze has {pattern!r}, which fits no parameter; one of them is {near[0]}")
        frozen |= found
    if len(frozen) == len(named):
        raise RecipeError(f"{section}.freeze={list(patterns)} leaves nothing to learn; take a pattern out")
    return frozen


def rewarm_share(section: PretrainSection, grown_from: Mapping[str, Any]) -> float:
    """The peak rates of going on from a base, as a share of those for a new model: warmed up to it, then decayed again.

    Rates that are warmed up anew are what lets a model learn again after its own were decayed, and how high they go trades
    what is learned against what is forgotten (arXiv:2403.08763). 0.3 for a model that dunwu grew: small runs are in
    `docs/log.md`. 0.1, unmeasured, for those of others, which learned a thousand times more text and ended at rates far below
    ours: about 7e-5 for AdamW at a width of 1,024.
    """
    if section.rewarm != "auto":
        return section.rewarm
    return 0.3 if grown_from else 0.1


def tuning_share(section: PretrainSection, base: Mapping[str, Any] | None) -> float:
    """The peak rates of fine-tuning, as a share of those for a new model: no higher than a base's own pre-training had.

    `base`: the facts of the base's stage, None without one.
    """
    return TUNING_SHARE if base is None else min(TUNING_SHARE, rewarm_share(section, base["grown_from"]))


def delta_rate(section: TrainSection, config: DecoderConfig, *, scale: float) -> float:
    """Peak learning rate of AdamW for deltas: the recipe's, or ten times that of tuning all weights.

    So much more is what thin factors that start at nothing want, in many runs of others and at any rank
    (thinkingmachines.ai/blog/lora, 2025).
    """
    return 10.0 * scale * default_lrs(config, "adamw")[1] if section.lr_adamw == "auto" else section.lr_adamw


def peak_rates(section: TrainSection, config: DecoderConfig, *, scale: float = 1.0) -> tuple[float, float]:
    """Peak learning rates of Muon and AdamW: the recipe's, or `scale` times those that suit the width."""
    lr_muon, lr_adamw = default_lrs(config, section.optimizer)
    return (
        lr_muon * scale if section.lr_muon == "auto" else section.lr_muon,
        lr_adamw * scale if section.lr_adamw == "auto" else section.lr_adamw,
    )


def learn(
    work: Work,
    model: Decoder,
    stream: Stream,
    section: TrainSection,
    *,
    total_tokens: int,
    deltas: Deltas | None = None,
    objective: Objective = causal_lm,
    alongside: Alongside | None = None,
    values: ValueModel | None = None,
    result: Learned | None = None,
) -> TrainResult:
    """Train `model`, or `deltas` on it, in the stage's folder with the choices of `work.resolved`; goes on by itself where it
    was interrupted.

    `alongside`: see `fit`. `values`: a value model that learns beside it, at a rate of its own, and `result`, what of all of it
    checkpoints keep and a finished run leaves, if not all of the model or the deltas.
    """
    prepare_cpu()
    device = pick_device()
    chosen = work.resolved
    if deltas is None:
        optimizer = build_optimizer(model, section, (chosen["lr_muon"], chosen["lr_adamw"]))
    else:
        optimizer = build_delta_optimizer(deltas, section, chosen["lr_adamw"])
    if values is not None:
        optimizer = with_values(optimizer, values.trained(), section, chosen["lr_values"])
    with StopSignal() as stop:
        return fit(
            model,
            stream,
            objective,
            optimizer,
            section,
            total_tokens=total_tokens,
            batch_rows=chosen["batch_rows"],
            micro_batch_rows=chosen["micro_batch_rows"],
            folder=work.folder,
            seed=work.recipe.seed,
            progress=work.progress,
            stop=stop,
            learned=result or deltas,
            alongside=alongside,
            snapshots=section.snapshots if isinstance(section, PretrainSection) else 0,
            flops_per_token=train_flops_per_token(model.config, stream.context_length, frozen=deltas is not None),
            peak_flops=measure_matmul_flops(device, pick_dtype(device, section.dtype)),
        )


def gpu_peak(result: TrainResult) -> int | None:
    """Peak bytes on the GPU; None on a CPU, where the stage's own meter also sees what is not training."""
    return result.peak_bytes if pick_device().type == "cuda" else None


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Put the tokenizer beside the weights, so that the folder is a whole model."""
    _copy_there(source, folder, TOKENIZER_FILES)


def copy_generation_settings(source: Path, folder: Path) -> None:
    """What a model of others says of how it wants to be sampled and what ends its turns, where it says anything."""
    _copy_there(source, folder, (GENERATION_FILE,))


def add_stop_ids(folder: Path, ids: Sequence[int]) -> None:
    """Name all of `ids` as what ends a text in the folder's generation_config.json; the rest of it stays."""
    file = folder / GENERATION_FILE
    write_json(file, {**read_json(file), "eos_token_id": list(ids)})


def copy_beside(
    folder: Path, tokenizer: TokenizerLike, tokenizer_folder: Path, model_folder: Path, stops: Sequence[int]
) -> None:
    """What a tuned model needs beside its weights; of a model of others also how it wants to be sampled, and what ends its turns."""
    copy_tokenizer(tokenizer_folder, folder)
    if not isinstance(tokenizer, Tokenizer):
        copy_generation_settings(model_folder, folder)
        add_stop_ids(folder, stops)


def _copy_there(source: Path, folder: Path, names: Sequence[str]) -> None:
    with disk_errors(folder):
        copy_files(source, folder, names)
