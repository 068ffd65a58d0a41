"""What pre-training and fine-tuning share: the loop with this stage's choices, and the tokenizer beside the weights."""

import shutil
from pathlib import Path

from dunwu.build.graph import Work
from dunwu.core.devices import measure_matmul_flops, pick_device, pick_dtype, prepare_cpu
from dunwu.core.files import disk_errors
from dunwu.core.recipe import TrainSection
from dunwu.corpus.stream import Stream
from dunwu.model.config import DecoderConfig
from dunwu.model.count import train_flops_per_token
from dunwu.model.decoder import Decoder
from dunwu.train.loop import TrainResult, fit
from dunwu.train.objectives import causal_lm
from dunwu.train.optim import build_optimizer, default_lrs
from dunwu.train.signals import StopSignal

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def peak_rates(section: TrainSection, config: DecoderConfig, *, scale: float = 1.0) -> tuple[float, float]:
    """Peak learning rates of Muon and AdamW: the recipe's, or `scale` times those that suit the width."""
    lr_muon, lr_adamw = default_lrs(config, section.optimizer)
    return (
        lr_muon * scale if section.lr_muon == "auto" else section.lr_muon,
        lr_adamw * scale if section.lr_adamw == "auto" else section.lr_adamw,
    )


def learn(work: Work, model: Decoder, stream: Stream, section: TrainSection, *, total_tokens: int) -> TrainResult:
    """Train `model` in the stage's folder with the choices of `work.resolved`; goes on by itself where it was interrupted."""
    prepare_cpu()
    device = pick_device()
    chosen = work.resolved
    optimizer = build_optimizer(model, section, (chosen["lr_muon"], chosen["lr_adamw"]))
    with StopSignal() as stop:
        return fit(
            model,
            stream,
            causal_lm,
            optimizer,
            section,
            total_tokens=total_tokens,
            batch_rows=chosen["batch_rows"],
            micro_batch_rows=chosen["micro_batch_rows"],
            folder=work.folder,
            seed=work.recipe.seed,
            progress=work.progress,
            stop=stop,
            flops_per_token=train_flops_per_token(model.config, stream.context_length),
            peak_flops=measure_matmul_flops(device, pick_dtype(device, section.dtype)),
        )


def gpu_peak(result: TrainResult) -> int | None:
    """Peak bytes on the GPU; None on a CPU, where the stage's own meter also sees what is not training."""
    return result.peak_bytes if pick_device().type == "cuda" else None


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Put the tokenizer beside the weights, so that the folder is a whole model."""
    with disk_errors(folder):
        for name in TOKENIZER_FILES:
            shutil.copyfile(source / name, folder / name)
