"""Tokens a second and extra memory of LoRA, paired with transformers and peft.

    python benchmarks/lora.py                       # about 3 minutes on two cores
    python benchmarks/lora.py --targets all-linear  # LoRA on all linear layers instead of queries and values

Both sides tune the shape of SmolLM2-135M with random weights, in float32, on the same random tokens: r = 8, 2 rows of 256 tokens,
AdamW, clipping included. Each side is a process of its own; they take turns, so that what else the machine does meets both. Ours
is set up as `dunwu tune` sets itself up, the peer as its users do. Extra memory is the peak above what the process held once its
imports were done, the frozen weights included.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from common import Side, print_figure, serve_steps

from dunwu.core import devices
from dunwu.core.deltas import ALL_LINEAR, LoraSpec
from dunwu.core.recipe import TrainSection
from dunwu.corpus.stream import Batch
from dunwu.delta.registry import attach
from dunwu.model.config import DecoderConfig
from dunwu.model.count import parameters
from dunwu.model.decoder import new_decoder
from dunwu.model.families import config_to_hf
from dunwu.train.learned import Deltas
from dunwu.train.objectives import causal_lm
from dunwu.train.optim import build_delta_optimizer

ROWS, TIME, RANK, ALPHA = 2, 256, 8, 16
LR, BETAS, CLIP = 2e-4, (0.9, 0.999), 1.0
Step = Callable[[], None]


def shape() -> DecoderConfig:
    """That of SmolLM2-135M."""
    return DecoderConfig(
        architecture="llama", vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, head_dim=64, max_position_embeddings=2048, rms_norm_eps=1e-5,
        rope_theta=100_000.0, tie_word_embeddings=True,
    )  # fmt: skip


def random_tokens() -> torch.Tensor:
    """The batch that both sides tune on."""
    return torch.randint(0, shape().vocab_size, (ROWS, TIME + 1), generator=torch.Generator().manual_seed(0))


def our_step(targets: tuple[str, ...]) -> Step:
    """A step as `train/loop.py` makes it."""
    model = new_decoder(shape(), seed=0).train()
    deltas = Deltas([attach(model, LoraSpec(r=RANK, alpha=ALPHA, targets=targets), seed=0)])
    section = TrainSection.model_validate({"optimizer": "adamw", "betas": BETAS, "weight_decay": 0.0})
    update = build_delta_optimizer(deltas, section, LR)
    tokens = random_tokens()
    batch = Batch(
        ids_BT=tokens[:, :-1], targets_BT=tokens[:, 1:], positions_BT=torch.arange(TIME).expand(ROWS, TIME),
        document_BT=None, learned_tokens=ROWS * TIME,
    )  # fmt: skip

    def step() -> None:
        loss, _ = causal_lm(model, batch, total_learned=ROWS * TIME)
        loss.backward()
        update.step(1.0, CLIP)

    return step


def peer_step(targets: tuple[str, ...]) -> Step:
    """A plain loop over transformers' model with peft's LoRA."""
    import peft
    import transformers

    network = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config_to_hf(shape())))
    modules: Any = "all-linear" if targets == (ALL_LINEAR,) else list(targets)
    model = peft.get_peft_model(network, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=modules)).train()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=LR, betas=BETAS, weight_decay=0.0)
    ids = random_tokens()[:, :-1]

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step


def child(role: str, targets: tuple[str, ...]) -> None:
    """Be one side."""
    if role == "ours":
        devices.prepare_cpu()
        serve_steps(lambda: our_step(targets), warmup=2)
    else:
        import peft  # noqa: F401 - its import belongs to the base, not to the extra memory

        torch.set_num_threads(devices.available_cores())
        serve_steps(lambda: peer_step(targets), warmup=2)


def main() -> None:
    """Let the two sides take turns, and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=["q_proj", "v_proj"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    targets = tuple(arguments.targets)
    if arguments.child:
        child(arguments.child, targets)
        return
    sides = [Side(__file__, "--child", role, "--targets", *targets) for role in ("ours", "peer")]
    speeds: list[list[float]] = [[], []]
    answers: list[dict[str, Any]] = []
    for _ in range(arguments.rounds):
        answers = [side.run(1) for side in sides]
        for own, answer in zip(speeds, answers, strict=True):
            own.append(ROWS * TIME / sum(answer["seconds"]))
    for side in sides:
        side.close()
    suffix = "" if targets == ("q_proj", "v_proj") else f"_{'_'.join(targets)}"
    facts = {
        "peer_name": "transformers and peft, plain loop", "rank": RANK, "targets": list(targets),
        "parameters": parameters(shape()), "dtype": "float32",
    }  # fmt: skip
    print_figure(
        f"tokens_per_s_ratio{suffix}", [a / b for a, b in zip(*speeds, strict=True)], target=">=1.3",
        ours=round(statistics.median(speeds[0]), 1), peer=round(statistics.median(speeds[1]), 1), **facts,
    )  # fmt: skip
    memory = [answer["extra_bytes"] / 1e6 for answer in answers]
    print_figure(
        f"memory_ratio{suffix}", [memory[0] / memory[1]], target="<=0.7", ours=round(memory[0], 1),
        peer=round(memory[1], 1), **facts,
    )  # fmt: skip


if __name__ == "__main__":
    main()
