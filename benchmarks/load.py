"""Time and memory of loading a random checkpoint of 500 MB: ours against transformers' `from_pretrained`.

    python benchmarks/load.py               # about a minute, and 1 GB of disk below --folder while it runs

Each reading is a fresh process, the two sides in turn. It imports its library first: neither the seconds nor the memory of
the import count. Then it loads the model, keeping the stored dtype, and looks at every weight once, as a first forward pass
would; the clock runs over both, since either side may load lazily. The file is in the page cache on both sides. Memory is the
peak of what the process holds above what it held before (VmHWM), pages of the mapped file included. `load_copied_*` is ours
where weights have to change on the way (stored in bfloat16, held in float32), and the weights that the memory is compared
with are those in float32.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import forget_peak, print_figure, status_bytes

SHAPES = {"float32": 6, "bfloat16": 14}
"""Layers that make about 500 MB in each dtype."""


def write_checkpoint(folder: Path, dtype: str) -> None:
    """A Qwen3 with random weights, as we save it; transformers reads the same folder."""
    from dunwu.model.config import DecoderConfig
    from dunwu.model.decoder import new_decoder
    from dunwu.model.hub import save_model

    config = DecoderConfig(
        architecture="qwen3", qk_norm="head", vocab_size=32_000, hidden_size=1024, intermediate_size=3072,
        num_hidden_layers=SHAPES[dtype], num_attention_heads=16, num_key_value_heads=8, head_dim=128,
        max_position_embeddings=2048,
    )  # fmt: skip
    save_model(new_decoder(config, seed=0).to(getattr(torch, dtype)), folder)


def ours(folder: Path, dtype: torch.dtype | None = None) -> Callable[[], torch.nn.Module]:
    """dunwu's side."""
    from dunwu.model.hub import load_model

    return lambda: load_model(folder, dtype=dtype)


def peer(folder: Path) -> Callable[[], torch.nn.Module]:
    """transformers' side; the class itself, so that its import is over before the clock starts."""
    from transformers import Qwen3ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    return lambda: Qwen3ForCausalLM.from_pretrained(folder)


def measure(load: Callable[[], torch.nn.Module]) -> dict[str, float]:
    """Seconds of loading and looking at every weight, and bytes held at most, for each byte of weights."""
    forget_peak()
    base = status_bytes("VmRSS")
    start = time.perf_counter()
    model = load()
    for parameter in model.parameters():
        parameter.detach().flatten().sum()
    seconds = time.perf_counter() - start
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return {"seconds": seconds, "memory": (status_bytes("VmHWM") - base) / weights, "megabytes": weights / 1e6}


def child(side: str, folder: Path) -> None:
    """One reading, printed as JSON."""
    sides = {"ours": ours, "peer": peer, "copied": lambda folder: ours(folder, torch.float32)}
    print(json.dumps(measure(sides[side](folder))))


def reading(side: str, folder: Path) -> dict[str, float]:
    """One reading in a process of its own."""
    command = [sys.executable, __file__, "--child", side, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def print_figures(name: str, mine: list[dict[str, float]], theirs: list[dict[str, float]], memory_target: str) -> None:
    """Time as a ratio of pairs, memory as a ratio to the weights."""
    median = {"ours": _median(mine, "seconds"), "peer": _median(theirs, "seconds")}
    facts: dict[str, Any] = {"peer_name": "transformers from_pretrained", "megabytes": round(mine[0]["megabytes"])}
    ratios = [one["seconds"] / other["seconds"] for one, other in zip(mine, theirs, strict=True)]
    target = "<=0.7" if memory_target else "none: it copies what the peer maps"
    print_figure(f"{name}_time_ratio", ratios, target=target, **median, unit_ours_peer="s", **facts)
    memory = [one["memory"] for one in mine]
    peer_memory = _median(theirs, "memory")
    print_figure(f"{name}_peak_to_weights", memory, target="<=1.1", peer=peer_memory, **facts)


def _median(readings: list[dict[str, float]], key: str) -> float:
    return round(sorted(one[key] for one in readings)[len(readings) // 2], 4)


def main() -> None:
    """Parse the command line; be one side, or let the sides take turns and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is written; default: the temporary folder")
    parser.add_argument("--n", type=int, default=7, help="readings of each side")
    parser.add_argument("--child", choices=["ours", "peer", "copied"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.folder)
        return
    for dtype in SHAPES:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            folder = Path(name)
            write_checkpoint(folder, dtype)
            reading("ours", folder)  # the file comes into the page cache
            turns = [(reading("ours", folder), reading("peer", folder)) for _ in range(arguments.n)]
            mine, theirs = [turn[0] for turn in turns], [turn[1] for turn in turns]
            print_figures(f"load_{dtype}", mine, theirs, "<=1.1")
            if dtype == "bfloat16":
                copied = [reading("copied", folder) for _ in range(arguments.n)]
                print_figures("load_copied_float32", copied, theirs, "")


if __name__ == "__main__":
    main()
