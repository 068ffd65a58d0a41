"""Time and memory of loading a random checkpoint of 500 MB: ours against transformers' `from_pretrained`.

    python benchmarks/load.py               # three minutes, and 1 GB of disk below --folder while it runs

Each reading is a fresh process, the two sides in turn. It imports its library first: neither the seconds nor the memory of
the import count. Then it loads the model, keeping the stored dtype, and looks at every weight once, as a first forward pass
would; the clock runs over both, since either side may load lazily. The file is in the page cache on both sides. Memory is the
peak of what the process holds above what it held before (VmHWM), pages of the mapped file included, as a ratio to the weights
as they are held. `load_bfloat16_as_float32_*`: stored in bfloat16 and held in float32, so that neither side can map them.
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


def peer(folder: Path, dtype: torch.dtype | None = None) -> Callable[[], torch.nn.Module]:
    """transformers' side; the class itself, so that its import is over before the clock starts."""
    from transformers import Qwen3ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    return lambda: Qwen3ForCausalLM.from_pretrained(folder, dtype=dtype or "auto")


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
    name, _, dtype = side.partition("-")
    load = (ours if name == "ours" else peer)(folder, getattr(torch, dtype) if dtype else None)
    print(json.dumps(measure(load)))


def reading(side: str, folder: Path) -> dict[str, float]:
    """One reading in a process of its own."""
    command = [sys.executable, __file__, "--child", side, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def print_figures(name: str, mine: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    """Time as a ratio of pairs, memory as a ratio to the weights."""
    median = {"ours": _median(mine, "seconds"), "peer": _median(theirs, "seconds")}
    facts: dict[str, Any] = {"peer_name": "transformers from_pretrained", "megabytes": round(mine[0]["megabytes"])}
    ratios = [one["seconds"] / other["seconds"] for one, other in zip(mine, theirs, strict=True)]
    target = "none: the same work on both sides" if "_as_" in name else "<=0.7"
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
    parser.add_argument("--n", type=int, default=7, help="readings of each side; at least 5 for a figure to quote")
    parser.add_argument("--dtype", choices=SHAPES, help="default: one after the other")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.folder)
        return
    for dtype in [arguments.dtype] if arguments.dtype else SHAPES:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as made:
            folder = Path(made)
            write_checkpoint(folder, dtype)
            for name, held in _cases(dtype).items():
                reading(f"ours{held}", folder)  # the file comes into the page cache
                turns = [(reading(f"ours{held}", folder), reading(f"peer{held}", folder)) for _ in range(arguments.n)]
                print_figures(name, [turn[0] for turn in turns], [turn[1] for turn in turns])


def _cases(stored: str) -> dict[str, str]:
    """Names of figures, each with the ending of a side's name that says in which dtype the weights are held."""
    converted = {"load_bfloat16_as_float32": "-float32"} if stored == "bfloat16" else {}
    return {f"load_{stored}": "", **converted}


if __name__ == "__main__":
    main()
