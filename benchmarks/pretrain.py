"""Tokens a second and peak extra memory of pre-training, paired with a plain loop over transformers' Llama.

    python benchmarks/pretrain.py                      # about 3 minutes on two cores
    python benchmarks/pretrain.py --peer gpt2-compiled # against transformers' GPT-2 of the same size under torch.compile

Both sides train a model of the same shape, in float32, on the same random tokens with AdamW, clipping included. Each side is
a process of its own; they take turns, so that what else the machine does meets both. Ours is set up as `dunwu build` sets
itself up (`devices.prepare_cpu`); the peer is set up as its users do. Extra memory is the peak above what the process held
once its imports were done. `--muon` also times ours with Muon, which does more work a step, and so is no fair pairing.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from common import Side, print_figure, serve_steps

from dunwu.core import devices
from dunwu.core.recipe import TrainSection
from dunwu.corpus.stream import Batch
from dunwu.model.config import DecoderConfig
from dunwu.model.count import parameters
from dunwu.model.decoder import new_decoder
from dunwu.model.families import config_to_hf
from dunwu.train.objectives import causal_lm
from dunwu.train.optim import build_optimizer

TIME = 256
LR, BETAS, DECAY, CLIP = 1e-3, (0.9, 0.95), 0.1, 1.0
Step = Callable[[], None]


def shape(size: str) -> tuple[DecoderConfig, int, int]:
    """The configuration, the rows of a batch and of a micro-batch."""
    shared: dict[str, Any] = {"architecture": "llama", "max_position_embeddings": TIME, "tie_word_embeddings": True}
    if size == "1.7M":
        small = DecoderConfig(
            vocab_size=4096, hidden_size=128, intermediate_size=352, num_hidden_layers=6, num_attention_heads=4,
            num_key_value_heads=4, head_dim=32, **shared,
        )  # fmt: skip
        return small, 16, 8
    large = DecoderConfig(
        vocab_size=8192, hidden_size=320, intermediate_size=864, num_hidden_layers=8, num_attention_heads=5,
        num_key_value_heads=5, head_dim=64, **shared,
    )  # fmt: skip
    return large, 8, 8


def random_tokens(config: DecoderConfig, rows: int) -> torch.Tensor:
    """The batch that both sides train on."""
    return torch.randint(0, config.vocab_size, (rows, TIME + 1), generator=torch.Generator().manual_seed(0))


def our_step(size: str, optimizer: str) -> Step:
    """A step as `train/loop.py` makes it: micro-batches from the stream's records, the objective, the optimiser."""
    config, rows, micro = shape(size)
    model = new_decoder(config, seed=0)
    section = TrainSection.model_validate({"optimizer": optimizer, "betas": BETAS, "weight_decay": DECAY})
    update = build_optimizer(model, section, (0.02, LR))
    tokens = random_tokens(config, rows)
    positions = torch.arange(TIME).expand(micro, TIME)

    def step() -> None:
        for at in range(0, rows, micro):
            window = tokens[at : at + micro]
            batch = Batch(
                ids_BT=window[:, :-1], targets_BT=window[:, 1:], positions_BT=positions, document_BT=None,
                learned_tokens=micro * TIME,
            )  # fmt: skip
            loss, _ = causal_lm(model, batch, total_learned=rows * TIME)
            loss.backward()
        update.step(1.0, CLIP)

    return step


def peer_step(size: str, peer: str) -> Step:
    """A plain loop over transformers' model, the whole batch at once."""
    import transformers

    config, rows, _ = shape(size)
    model: Any
    if peer == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config_to_hf(config)))
    else:
        gpt2 = transformers.GPT2Config(
            vocab_size=config.vocab_size, n_positions=TIME, n_embd=config.hidden_size, n_layer=config.num_hidden_layers,
            n_head=config.num_attention_heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        model = torch.compile(transformers.GPT2LMHeadModel(gpt2))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, weight_decay=DECAY)
    ids = random_tokens(config, rows)[:, :-1]

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step


def child(role: str, size: str) -> None:
    """Be one side."""
    if role.startswith("ours"):
        devices.prepare_cpu()
        serve_steps(lambda: our_step(size, role.removeprefix("ours-")), warmup=2)
    else:
        import transformers  # noqa: F401 - its import belongs to the base, not to the extra memory

        torch.set_num_threads(devices.available_cores())
        serve_steps(lambda: peer_step(size, role), warmup=2)


def pair(size: str, peer: str, optimizer: str, rounds: int) -> None:
    """Let the two sides take turns and print their figures."""
    config, rows, _ = shape(size)
    tokens, turns = rows * TIME, 4 if size == "1.7M" else 2
    sides = [Side(__file__, "--child", role, "--size", size) for role in (f"ours-{optimizer}", peer)]
    ours, theirs, ratios = [], [], []
    answers: list[dict[str, Any]] = []
    for _ in range(rounds):
        answers = [side.run(turns) for side in sides]
        a, b = (tokens * turns / sum(answer["seconds"]) for answer in answers)
        ours.append(a)
        theirs.append(b)
        ratios.append(a / b)
    for side in sides:
        side.close()
    suffix = f"{size}" if (peer, optimizer) == ("llama", "adamw") else f"{size}_{peer}_{optimizer}"
    name = {"llama": "transformers Llama, plain loop", "gpt2-compiled": "transformers GPT-2, compiled"}[peer]
    facts = {"peer_name": name, "optimizer": optimizer, "parameters": parameters(config), "dtype": "float32"}
    print_figure(
        f"tokens_per_s_ratio_{suffix}", ratios, target=">=1.5" if size == "1.7M" else ">=1.3",
        ours=round(statistics.median(ours)), peer=round(statistics.median(theirs)), **facts,
    )  # fmt: skip
    memory = [answer["extra_bytes"] / 1e6 for answer in answers]
    print_figure(
        f"memory_ratio_{suffix}", [memory[0] / memory[1]], target="<=0.6", ours=round(memory[0], 1),
        peer=round(memory[1], 1), **facts,
    )  # fmt: skip


def main() -> None:
    """Parse the command line and run both sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["1.7M", "12M", "both"], default="both")
    parser.add_argument("--peer", choices=["llama", "gpt2-compiled"], default="llama")
    parser.add_argument("--muon", action="store_true", help="also time ours with Muon")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.size)
        return
    for size in ("1.7M", "12M") if arguments.size == "both" else (arguments.size,):
        pair(size, arguments.peer, "adamw", arguments.rounds)
        if arguments.muon:
            pair(size, arguments.peer, "muon", arguments.rounds)


if __name__ == "__main__":
    main()
