"""Next-token learning on the corpus, from random weights: a Hugging Face directory, `metrics.jsonl`, `checkpoints/`.

Facts: those of `TrainResult`, and `corpus_tokens`, `epochs`, `parameters`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dunwu.build.budget import Choice
from dunwu.build.graph import Outcome, Outlook, Stage, Work
from dunwu.build.home import Figures, Forecast
from dunwu.build.learn import copy_tokenizer, gpu_peak, learn, peak_rates
from dunwu.build.meters import resident_bytes
from dunwu.build.training import pretrain_choice
from dunwu.core.devices import pick_device
from dunwu.core.recipe import Recipe
from dunwu.core.units import format_count
from dunwu.corpus.shards import TokenShards
from dunwu.corpus.stream import PretrainStream
from dunwu.model.config import DecoderConfig
from dunwu.model.count import parameters, train_flops_per_token
from dunwu.model.decoder import new_decoder
from dunwu.tokenizer.bpe import Tokenizer

NOT_IN_THE_RESULT = {"tensorboard", "checkpoint_every_s", "checkpoints_kept", "micro_batch_rows"}


def _settings(recipe: Recipe) -> Mapping[str, Any]:
    settings: dict[str, Any] = {
        "model": recipe.model.model_dump(mode="json"),
        "pretrain": recipe.pretrain.model_dump(mode="json", exclude=NOT_IN_THE_RESULT),
        "seed": recipe.seed,
    }
    if "auto" in settings["model"].values() or recipe.pretrain.tokens == "auto":
        settings |= {"budget": recipe.budget, "memory": recipe.memory, "fine_tuning": bool(recipe.sft.sources)}
    return settings


def _forecast(outlook: Outlook) -> Forecast:
    choice = pretrain_choice(outlook)
    count, corpus_tokens = parameters(choice.config), outlook.facts["tokenizer"]["train_tokens"]
    lr_muon, lr_adamw = peak_rates(outlook.recipe.pretrain, choice.config)
    return Forecast(
        resolved={
            "model": asdict(choice.config),
            "context_length": choice.context_length,
            "tokens": choice.tokens,
            "batch_rows": choice.batch_rows,
            "micro_batch_rows": choice.micro_batch_rows,
            "lr_muon": lr_muon,
            "lr_adamw": lr_adamw,
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
            "epochs": choice.tokens / max(1, corpus_tokens),
        },
        note=_in_words(choice, corpus_tokens),
    )


def _in_words(choice: Choice, corpus_tokens: int) -> str:
    config = choice.config
    return (
        f"model: {config.architecture}, {config.num_hidden_layers} layers of {config.hidden_size}, "
        f"{config.num_attention_heads} heads ({config.num_key_value_heads} for keys and values), "
        f"vocabulary {config.vocab_size:,}, context {choice.context_length}; "
        f"{choice.tokens / max(1, corpus_tokens):.2f} passes over {format_count(corpus_tokens)} tokens"
    )


def _run(work: Work) -> Outcome:
    tokenizer = Tokenizer.load(work.needs["tokenizer"])
    config = DecoderConfig(
        **{
            **work.resolved["model"],
            "vocab_size": tokenizer.vocab_size,
            "bos_token_id": tokenizer.eos_id,
            "eos_token_id": tokenizer.eos_id,
            "pad_token_id": tokenizer.eos_id,
        }
    )
    shards = TokenShards.open(work.needs["tokenizer"] / "shards")
    stream = PretrainStream(shards, context_length=work.resolved["context_length"], seed=work.recipe.seed)
    model = new_decoder(config, seed=work.recipe.seed, device=pick_device())
    result = learn(work, model, stream, work.recipe.pretrain, total_tokens=work.resolved["tokens"])
    copy_tokenizer(work.needs["tokenizer"], work.folder)
    corpus_tokens = len(shards)
    return Outcome(
        facts={
            **asdict(result),
            "parameters": parameters(config),
            "model": asdict(config),
            "context_length": stream.context_length,
            "micro_batch_rows": work.resolved["micro_batch_rows"],
            "corpus_tokens": corpus_tokens,
            "epochs": result.tokens / corpus_tokens,
        },
        actual=Figures(
            seconds=result.seconds,
            peak_bytes=gpu_peak(result),
            parameters=parameters(config),
            tokens=result.tokens,
            flops=result.tokens * train_flops_per_token(config, stream.context_length),
        ),
    )


PRETRAIN = Stage(
    name="pretrain",
    title="Pre-training",
    version="1",
    needs=("tokenizer",),
    settings=_settings,
    forecast=_forecast,
    run=_run,
)
