"""Wall time to a loss: ours against the classic small CPU configuration on tinyshakespeare.

    python benchmarks/time_to_loss.py --text FILE      # input.txt, also as .gz; about 4 minutes on two cores

The peer is transformers' GPT-2 with 4 layers, 4 heads and width 128 on characters, block 64, batch 12, no dropout: 2,000
steps of AdamW, 1e-3 to 1e-4 by cosine after 100 steps of warm-up, betas 0.9 and 0.99, decay 0.1 on matrices. Ours reads the
same 90% of the text in the same block, has no more parameters, and is made of dunwu's own decoder, objective, optimiser and
schedule. Both score the whole validation split in rows of 64 after training. Each side is one process, timed from its
launch to its exit: the interpreter and the import of torch are included. `time_ratio` counts only where ours ends at or
below the peer's loss, and the line says so otherwise.
"""

import argparse
import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

BLOCK = 64
DEFAULT_TEXT = Path(__file__).resolve().parents[2] / "shared" / "data" / "en_tinyshakespeare" / "input.txt.gz"
EVALUATION_ROWS = 128
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Ids of the characters: the first 90% and the rest."""

    train: torch.Tensor
    validation: torch.Tensor
    vocab_size: int


def read_split(path: Path) -> Split:
    """Characters to ids, numbered in their order; split as nanoGPT does."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = raw.decode("utf-8")
    numbers = {char: number for number, char in enumerate(sorted(set(text)))}
    ids = torch.tensor([numbers[char] for char in text])
    border = int(0.9 * len(ids))
    return Split(train=ids[:border], validation=ids[border:], vocab_size=len(numbers))


def crops(ids_N: torch.Tensor, steps: int, rows: int, seed: int) -> torch.Tensor:
    """Where each row of each step begins, `[steps, rows]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, len(ids_N) - BLOCK - 1, (steps, rows), generator=generator)


@torch.no_grad()
def validation_loss(summed_loss: Loss, split: Split) -> float:
    """Mean nats a character over the whole validation split, in rows of 64 that do not overlap."""
    ids_N = split.validation
    size = (len(ids_N) - 1) // BLOCK * BLOCK
    inputs, targets = ids_N[:size].view(-1, BLOCK), ids_N[1 : size + 1].view(-1, BLOCK)
    parts = zip(inputs.split(EVALUATION_ROWS), targets.split(EVALUATION_ROWS), strict=True)
    return sum(float(summed_loss(x, y)) for x, y in parts) / size


def run_ours(path: Path, threads: int | None) -> dict[str, Any]:
    """Train dunwu's decoder; returns the loss and the parameters."""
    from dunwu.core import devices
    from dunwu.core.recipe import TrainSection
    from dunwu.corpus.stream import Batch
    from dunwu.model.config import DecoderConfig
    from dunwu.model.count import parameters
    from dunwu.model.decoder import new_decoder
    from dunwu.train.objectives import causal_lm, linear_cross_entropy
    from dunwu.train.optim import build_optimizer
    from dunwu.train.schedule import lr_scale

    devices.prepare_cpu(threads)
    split = read_split(path)
    config = DecoderConfig(
        architecture="qwen3", qk_norm="head", vocab_size=split.vocab_size, hidden_size=128, intermediate_size=344, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, head_dim=32, max_position_embeddings=BLOCK,
    )  # fmt: skip
    steps, rows = 230, 16
    section = TrainSection(schedule="wsd", warmup_fraction=0.02, decay_fraction=0.8, weight_decay=0.0)
    model = new_decoder(config, seed=0)
    optimizer = build_optimizer(model, section, (0.025, 1e-2))
    columns, positions = torch.arange(BLOCK), torch.arange(BLOCK)[None]
    for step, starts in enumerate(crops(split.train, steps, rows, seed=1)):
        at = starts[:, None] + columns
        batch = Batch(
            ids_BT=split.train[at], targets_BT=split.train[at + 1], positions_BT=positions, document_BT=None,
            learned_tokens=rows * BLOCK,
        )  # fmt: skip
        causal_lm(model, batch, total_learned=rows * BLOCK)[0].backward()
        optimizer.step(lr_scale(section, (step + 1) / steps), 1.0)

    def summed(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return linear_cross_entropy(model(x).flatten(0, 1), model.head_weight, y.flatten())

    return {"loss": validation_loss(summed, split), "parameters": parameters(config), "tokens": steps * rows * BLOCK}


def run_peer(path: Path, threads: int | None) -> dict[str, Any]:
    """Train transformers' GPT-2 by nanoGPT's CPU recipe; returns the loss and the parameters."""
    from torch.nn import functional as F
    from transformers import GPT2Config, GPT2LMHeadModel

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(1337)
    split = read_split(path)
    config = GPT2Config(
        vocab_size=split.vocab_size, n_positions=BLOCK, n_embd=128, n_layer=4, n_head=4, bos_token_id=None, eos_token_id=None, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0,
    )  # fmt: skip
    model: Any = GPT2LMHeadModel(config)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    steps, rows, warmup = 2000, 12, 100
    falling = torch.cos(torch.linspace(0.0, torch.pi, steps - warmup)).add(1.0).mul(0.45e-3).add(1e-4).tolist()
    rates = [1e-3 * (step + 1) / warmup for step in range(warmup)] + falling
    columns = torch.arange(BLOCK)

    def loss(x: torch.Tensor, y: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        return F.cross_entropy(
            model(input_ids=x, use_cache=False).logits.flatten(0, 1), y.flatten(), reduction=reduction
        )

    for rate, starts in zip(rates, crops(split.train, steps, rows, seed=1), strict=True):
        at = starts[:, None] + columns
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss(split.train[at], split.train[at + 1]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    count = sum(p.numel() for p in model.parameters())
    return {
        "loss": validation_loss(lambda x, y: loss(x, y, "sum"), split),
        "parameters": count,
        "tokens": steps * rows * BLOCK,
    }


def timed(role: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one side as a process of its own; adds its wall seconds from launch to exit."""
    command = [sys.executable, __file__, "--child", role, "--text", str(arguments.text)]
    if arguments.threads:
        command += ["--threads", str(arguments.threads)]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - start
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": seconds}


def main() -> None:
    """Parse the command line; be one side, or run ours, the peer and ours again, and print the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, default=DEFAULT_TEXT)
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--child", choices=["ours", "peer"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run = run_ours if arguments.child == "ours" else run_peer
        print(json.dumps(run(arguments.text, arguments.threads)))
        return
    from common import print_figure

    ours, peer, again = (timed(role, arguments) for role in ("ours", "peer", "ours"))
    reached = max(ours["loss"], again["loss"]) <= peer["loss"]
    print_figure(
        "time_ratio", [side["seconds"] / peer["seconds"] for side in (ours, again)],
        target="<=0.25 at no higher loss and no more parameters" if reached else "not met: ours ended above the peer's loss",
        ours=round((ours["seconds"] + again["seconds"]) / 2, 1), peer=round(peer["seconds"], 1),
        peer_name="transformers GPT-2, nanoGPT's CPU recipe", unit_ours_peer="s", ours_loss=round(ours["loss"], 4),
        peer_loss=round(peer["loss"], 4), ours_parameters=ours["parameters"], peer_parameters=peer["parameters"],
        ours_tokens=ours["tokens"], peer_tokens=peer["tokens"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
