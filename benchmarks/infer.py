"""How fast we write, and how fast transformers, llama.cpp and CTranslate2 do, in one interleaved run on this machine.

    python benchmarks/infer.py [--quick] [--peers PYTHON] >> benchmarks/results/infer.jsonl

The shape is SmolLM2-135M's with random weights: 30 layers, width 576, 9 heads, 3 key/value heads, MLP 1,536, vocabulary 49,152,
tied. Each side has a process of its own with every core, idle while others have their turn; the same weights reach llama.cpp
through our GGUF export and CTranslate2 through its converter. `--peers`: the Python that has llama_cpp and ctranslate2, if it is
not this one; a peer that cannot be imported is left out, and its figures with it.

Batch 1 and 8 are prompts of 128 tokens and 128 written: decode_tokens/s after every text's first token. "mixed16" are 16 requests
of 32 to 256 tokens each way that come at once: all their tokens over the time to the last; transformers' `generate` pads them.
`prefix_1000_prefills`: 8 texts share their first 1,000 tokens; prompt tokens read, less what is their own, over 1,000.
`limit_*` are what this machine can do at most: float32 weights read from large and from small pages, and multiply-adds.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from common import print_figure

from dunwu.core.devices import prepare_cpu
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import new_decoder
from dunwu.model.gguf.exporting import export_gguf
from dunwu.model.hub import save_model
from dunwu.model.native.library import FLOAT32, Matrix, native
from dunwu.model.native.pages import on_large_pages
from dunwu.tokenizer.bpe import train_tokenizer
from dunwu.tokenizer.pattern import GGUF_RULE, PATTERN

CONFIG = DecoderConfig(
    architecture="llama",
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    max_position_embeddings=2048,
    rope_theta=100_000.0,
    rms_norm_eps=1e-5,
)
ONE, EIGHT = [[128, 128]], [[128, 128]] * 8
SIDES_FILE = Path(__file__).parent / "infer_sides.py"


class Side:
    """A child that answers lines; idle between its turns."""

    def __init__(self, name: str, folder: Path, python: str) -> None:
        self.name = name
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)) if python == sys.executable else "",
        }
        environment.pop("OMP_NUM_THREADS", None)
        self.process = subprocess.Popen(
            [python, str(SIDES_FILE), name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if name in ("transformers", "ctranslate2") else None,
            text=True,
            env=environment,
        )
        self.about = json.loads(self._line())

    def run(self, work: Sequence[Sequence[int]]) -> dict[str, float]:
        assert self.process.stdin is not None
        print(json.dumps(work), file=self.process.stdin, flush=True)
        return json.loads(self._line())

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended early with {self.process.wait()}")
        return line


def mixed(quick: bool) -> list[list[int]]:
    """16 requests of unlike sizes."""
    generator = torch.Generator().manual_seed(16)
    high = 65 if quick else 257
    return torch.randint(32, high, (16, 2), generator=generator).tolist()


def prepare(folder: Path) -> None:
    """The model with a vocabulary of its size, as a folder of Hugging Face's and as GGUF files."""
    model = folder / "model"
    generator = torch.Generator().manual_seed(0)
    # Words enough for every id: what no token stands for need not be multiplied.
    letters = torch.randint(97, 123, (60_000 * 8,), generator=generator).to(torch.uint8).numpy().tobytes().decode()
    words = [letters[at : at + 8] for at in range(0, len(letters), 8)]
    tokenizer = train_tokenizer([" ".join(words * 4)], vocab_size=CONFIG.vocab_size, out=model)
    assert tokenizer.vocab_size == CONFIG.vocab_size, tokenizer.vocab_size
    save_model(new_decoder(CONFIG, seed=0), model)
    for kind in ("f32", "q8_0"):
        # Only ids go in and out, so any rule of cutting text will do.
        export_gguf(model, folder / f"{kind}.gguf", dtype=kind, rules={PATTERN: GGUF_RULE})


def measure(sides: Sequence[Side], work: Sequence[Sequence[int]], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Each side's answers, in turn."""
    answers: dict[str, list[dict[str, float]]] = {side.name: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            answers[side.name].append(side.run(work))
            print(f"{side.name}: {answers[side.name][-1]}", file=sys.stderr, flush=True)
    return answers


def compare(
    name: str,
    own: Side,
    peers: Sequence[tuple[Side, str, str]],
    work: Sequence[Sequence[int]],
    rounds: int,
    *,
    whole: bool,
) -> None:
    """Print a ratio for each peer: (side, figure's ending, target)."""
    answers = measure([own, *(side for side, _, _ in peers)], work, rounds)
    wanted = sum(one for _, one in work)

    def rates(side: Side) -> list[float]:
        if whole:
            return [wanted / one["seconds"] for one in answers[side.name]]
        return [one["decode_tokens"] / one["decode_s"] for one in answers[side.name]]

    mine = rates(own)
    print_figure(
        name.replace("ratio", "tokens_per_s"), mine, unit="tokens/s", target="", side=own.name, about=own.about
    )
    for side, ending, target in peers:
        theirs = rates(side)
        ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
        middle = sorted(mine)[len(mine) // 2], sorted(theirs)[len(theirs) // 2]
        print_figure(
            name + ending,
            ratios,
            target=target,
            ours=round(middle[0], 1),
            peer=round(middle[1], 1),
            peer_name=side.about,
        )


def limits() -> None:
    """What memory and arithmetic of this machine allow."""
    kernels = native()
    assert kernels is not None
    outputs, inputs = 49_152, 1536
    for name in ("large", "small"):
        if name == "large":
            weight = on_large_pages((outputs, inputs), torch.float32)
        else:
            weight = torch.empty(outputs, inputs)
            ctypes.CDLL(None).madvise(
                ctypes.c_void_p(-(-weight.data_ptr() // 4096) * 4096), ctypes.c_size_t(weight.nbytes - 4096), 15
            )
        weight.fill_(0.5)
        _limit(f"limit_read_gb_per_s_{name}_pages", kernels, weight, rows=1, unit="GB/s")
    _limit("limit_gflop_per_s_8_rows", kernels, torch.full((192, inputs), 0.5), rows=8, unit="GFLOP/s")


def _limit(name: str, kernels, weight: torch.Tensor, *, rows: int, unit: str) -> None:
    outputs, inputs = weight.shape
    matrix = Matrix(weights=weight.data_ptr(), outputs=outputs, inputs=inputs, group=inputs, kind=FLOAT32)
    x, work = torch.ones(rows, inputs), weight.nbytes if rows == 1 else 2 * rows * weight.numel()
    seconds: list[float] = []
    for _ in range(15 if rows == 1 else 2000):
        start = time.perf_counter()
        kernels.product(matrix, x)
        seconds.append(time.perf_counter() - start)
    best = sorted(seconds)[: max(3, len(seconds) // 5)]
    print_figure(name, [work / one / 1e9 for one in best], unit=unit, target="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of each, and shorter requests")
    parser.add_argument("--peers", default=sys.executable, help="the Python that has the peers")
    parser.add_argument("--folder", type=Path, help="keep the model here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="figures whose name contains this")
    arguments = parser.parse_args()
    prepare_cpu(len(os.sched_getaffinity(0)))
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="dunwu-infer-"))
    if not (folder / "q8_0.gguf").exists():
        prepare(folder)
    rounds = 1 if arguments.quick else arguments.rounds
    if arguments.only in "limit":
        limits()
    for work_name, work, whole in (("b1", ONE, False), ("b8", EIGHT, False), ("mixed16", mixed(arguments.quick), True)):
        if arguments.only in f"ratio_{work_name}_float32":
            run_float32(folder, arguments.peers, work_name, work, rounds, whole=whole)
    if arguments.only in "ratio_b1_int8":
        sides = open_sides(folder, ("ours-int8-float", "llama-q8_0", "transformers"), arguments.peers)
        if sides:
            targets = {"llama-q8_0": ("_vs_llamacpp", ">=1.5"), "transformers": ("", "")}
            compare(
                "ratio_b1_int8", sides[0], [(one, *targets[one.name]) for one in sides[1:]], ONE, rounds, whole=False
            )
        close(sides)
    if arguments.only in "prefix_1000_prefills":
        side = Side("prefix", folder, sys.executable)
        answer = side.run([[16, 8]] * 8)
        print_figure(
            "prefix_1000_prefills", [(answer["decode_tokens"] - 8 * 16) / 1000], unit="prefills", target="<=1.1"
        )
        close([side])


def run_float32(folder: Path, peers: str, name: str, work: list[list[int]], rounds: int, *, whole: bool) -> None:
    targets = {
        "b1": {"llama-f32": ">1", "transformers": "", "ctranslate2": ""},
        "b8": {"llama-f32": ">=2", "transformers": "", "ctranslate2": ""},
        "mixed16": {"llama-f32": ">=2", "transformers": ">=4", "ctranslate2": ""},
    }[name]
    endings = {"llama-f32": "_vs_llamacpp", "transformers": "", "ctranslate2": "_vs_ctranslate2"}
    sides = open_sides(folder, ("ours-float-float", *targets), peers)
    figure = "ratio_mixed16" if name == "mixed16" else f"ratio_{name}_float32"
    compare(
        figure, sides[0], [(one, endings[one.name], targets[one.name]) for one in sides[1:]], work, rounds, whole=whole
    )
    close(sides)


def open_sides(folder: Path, names: Sequence[str], peers: str) -> list[Side]:
    """Those that can be had; ours comes first."""
    sides: list[Side] = []
    for name in names:
        try:
            sides.append(Side(name, folder, sys.executable if name.startswith("ours") else peers))
        except RuntimeError as error:
            print(f"left out: {error}", file=sys.stderr)
    return sides


def close(sides: Sequence[Side]) -> None:
    for side in sides:
        side.close()


if __name__ == "__main__":
    main()
