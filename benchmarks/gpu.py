"""Training and writing on one CUDA GPU in bfloat16, beside transformers on the same card in the same process.

    python benchmarks/gpu.py [--only train|write] [--rounds 3] >> benchmarks/results/gpu.jsonl

The shape is SmolLM2-135M's with random weights. Training: 16 rows of 1,024 tokens, float32 weights under bfloat16 autocast, AdamW;
ours as `train/loop.py` sets it up, with and without documents packed into a row; the peer as its users write it, plain and
(last, for its compiling takes minutes) compiled. Writing: greedy, prompts of 128 tokens and 128 written, batch 1, 8 and 64, our engine (graphs) beside
`generate` with its dynamic cache, whole requests, prompts included. The two take turns.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from infer import CONFIG

from dunwu.core.recipe import TrainSection
from dunwu.corpus.stream import Batch
from dunwu.infer.engine import Engine
from dunwu.infer.sampling import SamplingParams
from dunwu.infer.sequence import Request
from dunwu.model.count import parameters, train_flops_per_token
from dunwu.model.decoder import new_decoder
from dunwu.model.families import config_to_hf
from dunwu.train.loop import compile_blocks
from dunwu.train.objectives import causal_lm
from dunwu.train.optim import build_optimizer

ROWS, TIME, STEPS = 16, 1024, 10
DOCUMENTS = 4
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 multiply-adds times two a second, by the makers' data sheets."""
Run = Callable[[], None]


class PlainTokens:
    """As many ids as the model has, all of one letter: the prompts are ids, and nothing stops early."""

    vocab_size = rows_needed = CONFIG.vocab_size
    unused_ids = stop_ids = start_ids = ()
    special_ids: Mapping[str, int] = {}
    eos_id, chat_template, spells_bytes = 0, None, True

    def id_bytes(self, number: int) -> bytes:
        return b"a"

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        return "a" * len([*ids])


def our_step(*, packed: bool) -> Run:
    model = new_decoder(CONFIG, seed=0, device="cuda").train()
    section = TrainSection.model_validate({"optimizer": "adamw"})
    update = build_optimizer(model, section, (0.02, 1e-3))
    compile_blocks(model)
    ids = torch.randint(0, CONFIG.vocab_size, (ROWS, TIME + 1), device="cuda")
    length = TIME // DOCUMENTS if packed else TIME
    places = torch.arange(TIME, device="cuda")
    batch = Batch(
        ids_BT=ids[:, :-1], targets_BT=ids[:, 1:], positions_BT=(places % length).expand(ROWS, TIME),
        document_BT=(places // length).expand(ROWS, TIME) if packed else None, learned_tokens=ROWS * TIME,
    )  # fmt: skip

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss, _ = causal_lm(model, batch, total_learned=ROWS * TIME)
        loss.backward()
        update.step(1.0, 1.0)

    return step


def peer_step(*, compiled: bool) -> Run:
    import transformers

    model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config_to_hf(CONFIG)))
    model = model.to("cuda").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if compiled else model
    ids = torch.randint(0, CONFIG.vocab_size, (ROWS, TIME), device="cuda")

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = run(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_writer() -> Callable[[int], None]:
    model = new_decoder(CONFIG, seed=0, device="cuda", dtype=torch.bfloat16).requires_grad_(False).eval()
    engine = Engine(model, PlainTokens(), cache_bytes=4 << 30, token_budget=16_384, prefix_cache=False)  # pyright: ignore[reportArgumentType]
    params = SamplingParams(temperature=0, max_tokens=128, ignore_eos=True)

    def write(rows: int) -> None:
        prompts = torch.randint(0, CONFIG.vocab_size, (rows, 128)).tolist()
        engine.run(Request(id=str(row), prompt_ids=tuple(ids), params=params) for row, ids in enumerate(prompts))

    return write


def peer_writer() -> Callable[[int], None]:
    import transformers

    model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config_to_hf(CONFIG)))
    model = model.to("cuda", torch.bfloat16).eval()
    model.generation_config.eos_token_id = None

    @torch.inference_mode()
    def write(rows: int) -> None:
        ids = torch.randint(0, CONFIG.vocab_size, (rows, 128), device="cuda")
        ones = torch.ones_like(ids)
        model.generate(
            ids, attention_mask=ones, max_new_tokens=128, min_new_tokens=128, do_sample=False, pad_token_id=0
        )

    return write


def seconds(run: Run, times: int) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def paired(ours: Run, peer: Run, rounds: int, *, times: int = 1) -> tuple[list[float], list[float]]:
    both = [(seconds(ours, times), seconds(peer, times)) for _ in range(rounds)]
    return [one for one, _ in both], [other for _, other in both]


def peak_bytes(step: Run) -> int:
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def figure(name: str, ours: list[float], peer: list[float], work: float, **facts: Any) -> None:
    """Ratio of rates, from seconds."""
    ratios = [b / a for a, b in zip(ours, peer, strict=True)]
    line = {
        "figure": name, "value": round(statistics.median(ratios), 3), "unit": "x", "ours": round(work / statistics.median(ours)),
        "peer": round(work / statistics.median(peer)), **facts, "n": len(ratios), "min": round(min(ratios), 3),
        "max": round(max(ratios), 3), "device": f"{torch.cuda.get_device_name()}, torch {torch.__version__}",
    }  # fmt: skip
    print(json.dumps(line), flush=True)


def train(rounds: int, *, plain: bool) -> None:
    work = ROWS * TIME * STEPS
    flops = train_flops_per_token(CONFIG, TIME) * work
    peak = next((rate for name, rate in PEAK.items() if name in torch.cuda.get_device_name()), None)
    for packed, compiled in ((False, False), (True, False), (False, True))[: 2 if plain else 3]:
        held = torch.cuda.memory_allocated()
        started = time.perf_counter()
        ours = our_step(packed=packed)
        ours()
        torch.cuda.synchronize()
        first_s = time.perf_counter() - started
        ours_bytes = peak_bytes(ours) - held
        held = torch.cuda.memory_allocated()
        peer = peer_step(compiled=compiled)
        peer()
        peer_bytes = peak_bytes(peer) - held

        a, b = paired(ours, peer, rounds, times=STEPS)
        name = "cuda_train_tokens_per_s_ratio" + ("_packed" if packed else "") + ("_compiled_peer" if compiled else "")
        facts: dict[str, Any] = {
            "peer_name": f"transformers Llama, {'compiled' if compiled else 'plain'}, rows not packed"
        }
        facts |= {"parameters": parameters(CONFIG), "first_step_s": round(first_s, 1)}
        if peak:
            facts["share_of_peak"] = round(flops / statistics.median(a) / peak, 3)
        figure(name, a, b, work, **facts, ours_MiB=ours_bytes >> 20, peer_MiB=peer_bytes >> 20)
        del ours, peer
        torch.compiler.reset()


def write(rounds: int) -> None:
    ours, peer = our_writer(), peer_writer()
    peer(1)
    for rows in (1, 8, 64):
        ours(rows)  # records the graphs
        a, b = paired(lambda rows=rows: ours(rows), lambda rows=rows: peer(rows), rounds)
        figure(f"cuda_write_tokens_per_s_ratio_b{rows}", a, b, rows * 128, peer_name="transformers generate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["train", "write"])
    parser.add_argument("--plain", action="store_true", help="leave the compiled peer out")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "there is no CUDA GPU here; pretrain.py and infer.py measure on a CPU\n")
    if arguments.only != "write":
        train(arguments.rounds, plain=arguments.plain)
    if arguments.only != "train":
        write(arguments.rounds)


if __name__ == "__main__":
    main()
