"""Next-token learning on the corpus, from random weights or from those of a base: a Hugging Face directory,
`metrics.jsonl`, `checkpoints/`.

Facts: those of `TrainResult`, and `corpus_tokens`, `epochs`, `parameters`; with a base also `frozen` (parameters left as they
were), `replayed_tokens` and `replay_epochs`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dunwu.build.base import base_folder
from dunwu.build.budget import Choice
from dunwu.build.graph import Outcome, Outlook, Stage, Work
from dunwu.build.grow import grow_vocabulary
from dunwu.build.home import Figures, Forecast
from dunwu.build.learn import (
    copy_generation_settings,
    copy_tokenizer,
    freeze,
    gpu_peak,
    learn,
    peak_rates,
    rewarm_share,
    without_unused,
)
from dunwu.build.meters import resident_bytes
from dunwu.build.stages.tokenizer import REPLAY_SHARDS, SHARDS
from dunwu.build.training import pretrain_choice
from dunwu.core.devices import pick_device
from dunwu.core.recipe import Recipe
from dunwu.core.units import format_count, parse_duration
from dunwu.corpus.mix import MixedStream
from dunwu.corpus.shards import TokenShards
from dunwu.corpus.stream import PretrainStream, Stream
from dunwu.model.config import DecoderConfig
from dunwu.model.count import parameters, train_flops_per_token
from dunwu.model.decoder import Decoder, new_decoder
from dunwu.model.hub import load_model
from dunwu.tokenizer.bpe import Tokenizer
from dunwu.tokenizer.extend import read_extension

NOT_IN_THE_RESULT = {"tensorboard", "checkpoint_every_s", "checkpoints_kept", "micro_batch_rows"}


def _settings(recipe: Recipe) -> Mapping[str, Any]:
    settings: dict[str, Any] = {
        "model": recipe.model.model_dump(mode="json"),
        "pretrain": recipe.pretrain.model_dump(mode="json", exclude=NOT_IN_THE_RESULT),
        "seed": recipe.seed,
    }
    if recipe.base:
        settings["model"] = {"context_length": recipe.model.context_length}
        if recipe.replay.sources:
            settings["replay_share"] = recipe.replay.share
    else:
        settings["pretrain"]["rewarm"] = None
    settings["pretrain"] = without_unused(settings["pretrain"])
    is_open = recipe.pretrain.tokens == "auto" or (not recipe.base and "auto" in settings["model"].values())
    if is_open:
        settings |= {
            "budget_s": parse_duration(recipe.budget),
            "memory": recipe.memory,
            "fine_tuning": bool(recipe.sft.sources),
        }
    return settings


def _forecast(outlook: Outlook) -> Forecast:
    choice = pretrain_choice(outlook)
    count, corpus_tokens = parameters(choice.config), outlook.facts["tokenizer"]["train_tokens"]
    section = outlook.recipe.pretrain
    scale = rewarm_share(section, outlook.facts["base"]["grown_from"]) if outlook.recipe.base else 1.0
    lr_muon, lr_adamw = peak_rates(section, choice.config, scale=scale)
    corpus_share = 1.0 - _replay_share(outlook.recipe)
    return Forecast(
        resolved={
            "model": asdict(choice.config),
            "context_length": choice.context_length,
            "tokens": choice.tokens,
            "batch_rows": choice.batch_rows,
            "micro_batch_rows": choice.micro_batch_rows,
            "lr_muon": lr_muon,
            "lr_adamw": lr_adamw,
            "speed": asdict(choice.speed),
        },
        predicted=Figures(
            seconds=choice.seconds,
            peak_bytes=resident_bytes() + choice.peak_bytes,
            parameters=count,
            tokens=choice.tokens,
            flops=choice.tokens * train_flops_per_token(choice.config, choice.context_length),
        ),
        facts={
            "parameters": count,
            "model": asdict(choice.config),
            "context_length": choice.context_length,
            "micro_batch_rows": choice.micro_batch_rows,
            "corpus_tokens": corpus_tokens,
            "epochs": choice.tokens * corpus_share / max(1, corpus_tokens),
            "speed": asdict(choice.speed),
        },
        note=_in_words(choice, corpus_tokens, corpus_share),
    )


def _replay_share(recipe: Recipe) -> float:
    return recipe.replay.share if recipe.replay.sources else 0.0


def _in_words(choice: Choice, corpus_tokens: int, corpus_share: float) -> str:
    replayed = f"{1 - corpus_share:.0%} of the tokens are replayed, " if corpus_share < 1 else ""
    config = choice.config
    return (
        f"model: {config.architecture}, {config.num_hidden_layers} layers of {config.hidden_size}, "
        f"{config.num_attention_heads} heads ({config.num_key_value_heads} for keys and values), "
        f"vocabulary {config.vocab_size:,}, context {choice.context_length}; "
        f"{replayed}{choice.tokens * corpus_share / max(1, corpus_tokens):.2f} passes over {format_count(corpus_tokens)} tokens"
    )


def _run(work: Work) -> Outcome:
    section = work.recipe.pretrain
    model = _base_model(work) if work.recipe.base else _new_model(work)
    frozen = freeze(model, section.freeze, "pretrain")
    stream = _stream(work)
    result = learn(work, model, stream, section, total_tokens=work.resolved["tokens"])
    copy_tokenizer(work.needs["tokenizer"], work.folder)
    if work.recipe.base:
        copy_generation_settings(_base_folder(work), work.folder)
    config, tokens = model.config, work.facts["tokenizer"]
    facts: dict[str, Any] = {}
    if work.recipe.base:
        replayed = round(result.tokens * _replay_share(work.recipe))
        facts = {
            "frozen": frozen,
            "replayed_tokens": replayed,
            "replay_epochs": replayed / max(1, tokens.get("replay_tokens", 0)),
        }
    return Outcome(
        facts={
            **asdict(result),
            "parameters": parameters(config),
            "model": asdict(config),
            "context_length": stream.context_length,
            "micro_batch_rows": work.resolved["micro_batch_rows"],
            "speed": work.resolved.get("speed"),
            "corpus_tokens": tokens["train_tokens"],
            "epochs": (result.tokens - facts.get("replayed_tokens", 0)) / tokens["train_tokens"],
            **facts,
        },
        actual=Figures(
            seconds=result.seconds,
            peak_bytes=gpu_peak(result),
            parameters=parameters(config),
            tokens=result.tokens,
            flops=result.tokens * train_flops_per_token(config, stream.context_length),
        ),
    )


def _new_model(work: Work) -> Decoder:
    """Random weights in the shape that was chosen."""
    tokenizer = Tokenizer.load(work.needs["tokenizer"])
    own = {
        "vocab_size": tokenizer.vocab_size,
        "bos_token_id": tokenizer.eos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.eos_id,
    }
    config = DecoderConfig(**{**work.resolved["model"], **own})
    return new_decoder(config, seed=work.recipe.seed, device=pick_device())


def _base_folder(work: Work) -> Path:
    return base_folder(work.recipe, work.facts["base"]["revision"])


def _base_model(work: Work) -> Decoder:
    """The base's weights, with rows for the tokens that were added; float32, whatever they are stored in."""
    model = load_model(_base_folder(work), device=pick_device(), dtype=torch.float32, mapped=False)
    extension = read_extension(work.needs["tokenizer"])
    if extension is not None:
        grow_vocabulary(model, first_id=extension.first_id, pieces=extension.pieces)
    return model


def _stream(work: Work) -> Stream:
    folder, context, seed = work.needs["tokenizer"], work.resolved["context_length"], work.recipe.seed
    return rows_learned(folder, context_length=context, seed=seed, share=_replay_share(work.recipe))


def rows_learned(folder: Path, *, context_length: int, seed: int, share: float) -> Stream:
    """Rows of the corpus out of the tokenizer's folder, with rows of the replayed text between them where it has a share."""

    def rows(name: str) -> PretrainStream:
        return PretrainStream(TokenShards.open(folder / name), context_length=context_length, seed=seed)

    return MixedStream(rows(SHARDS), rows(REPLAY_SHARDS), share=share, seed=seed) if share else rows(SHARDS)


PRETRAIN = Stage(
    name="pretrain",
    title="Pre-training",
    version="1",
    needs=("base", "tokenizer"),
    settings=_settings,
    forecast=_forecast,
    run=_run,
    wanted=lambda recipe: not recipe.only_tunes,
)
