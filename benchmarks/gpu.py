"""Training and writing on one CUDA GPU in bfloat16, beside transformers on the same card in the same process.

    python benchmarks/gpu.py [--only train|write] [--rounds 3] >> benchmarks/results/gpu.jsonl

The shape is SmolLM2-135M's with random weights. Training: 16 rows of 1,024 tokens, float32 weights under bfloat16 autocast, AdamW;
ours as `train/loop.py` sets it up, with and without documents packed into a row; the peer as its users write it, plain and
(last, for its compiling takes minutes) compiled. Writing: greedy, prompts of 128 tokens and 128 written, batch 1, 8 and 64, our engine (graphs) beside
`generate` with its dynamic cache, whole requests, prompts included. The two take turns. "mixed16" are 16 requests of 32 to 256
tokens each way that come at once; `generate` pads them, and the longest wish decides for all. "b256" is ours alone.

`choices`: how many tokens of the mixed requests are not float32's likeliest after what stands before them, and by how many logits
they fall short at most, beside the same for a plain forward pass in bfloat16, which rounds as well.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from infer import CONFIG, mixed
from torch import Tensor

from dunwu.core.recipe import TrainSection
from dunwu.corpus.stream import Batch
from dunwu.infer.engine import Engine
from dunwu.infer.sampling import SamplingParams
from dunwu.infer.sequence import Request
from dunwu.model.count import parameters, train_flops_per_token
from dunwu.model.decoder import Decoder, new_decoder
from dunwu.model.families import config_to_hf
from dunwu.train.loop import compile_blocks
from dunwu.train.objectives import causal_lm
from dunwu.train.optim import build_optimizer

ROWS, TIME, STEPS = 16, 1024, 10
DOCUMENTS = 4
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 multiply-adds times two a second, by the makers' data sheets."""
Run = Callable[[], object]


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


Work = Sequence[tuple[list[int], int]]
"""Prompts, each with the tokens that are wanted after it."""


def alike(rows: int) -> Work:
    return [(ids, 128) for ids in torch.randint(0, CONFIG.vocab_size, (rows, 128)).tolist()]


def unlike() -> Work:
    return [(torch.randint(0, CONFIG.vocab_size, (read,)).tolist(), wanted) for read, wanted in mixed(quick=False)]


def our_model() -> Decoder:
    return new_decoder(CONFIG, seed=0, device="cuda", dtype=torch.bfloat16).requires_grad_(False).eval()


def our_writer(model: Decoder) -> Callable[[Work], list[tuple[int, ...]]]:
    engine = Engine(
        model, PlainTokens(), cache_bytes=16 << 30, token_budget=32_768, max_sequences=256, prefix_cache=False  # pyright: ignore[reportArgumentType]
    )  # fmt: skip

    def write(work: Work) -> list[tuple[int, ...]]:
        answers = engine.run(
            Request(
                id=str(row),
                prompt_ids=tuple(ids),
                params=SamplingParams(temperature=0, max_tokens=wanted, ignore_eos=True),
            )
            for row, (ids, wanted) in enumerate(work)
        )
        written = [one.outputs[0].ids for one in answers]
        assert [len(one) for one in written] == [wanted for _, wanted in work]
        return written

    return write


def peer_writer() -> Callable[[Work], None]:
    import transformers

    model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config_to_hf(CONFIG)))
    model = model.to("cuda", torch.bfloat16).eval()
    model.generation_config.eos_token_id = None

    @torch.inference_mode()
    def write(work: Work) -> None:
        longest, most = max(len(ids) for ids, _ in work), max(wanted for _, wanted in work)
        ids = torch.tensor([[0] * (longest - len(one)) + one for one, _ in work], device="cuda")
        read = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one, _ in work], device="cuda")
        model.generate(
            ids, attention_mask=read, max_new_tokens=most, min_new_tokens=most, do_sample=False, pad_token_id=0
        )

    return write


@torch.inference_mode()
def choices(model: Decoder, work: Work, written: Sequence[tuple[int, ...]]) -> None:
    """Where float32, with the very same weights, would have chosen otherwise."""
    exact = new_decoder(CONFIG, seed=0, device="cuda").requires_grad_(False).eval()
    exact.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    short: dict[str, list[Tensor]] = {"engine": [], "plain": []}
    differing = 0
    for (prompt, wanted), ids in zip(work, written, strict=True):
        text = torch.tensor([[*prompt, *ids]], device="cuda")[:, :-1]
        logits = exact.logits(exact(text)[0, -wanted:])
        plain = model.logits(model(text)[0, -wanted:]).argmax(-1)
        chosen = torch.tensor(ids, device="cuda")
        differing += int((chosen != plain).sum())
        best = logits.max(-1).values
        for name, own in (("engine", chosen), ("plain", plain)):
            short[name].append(best - logits.gather(1, own[:, None])[:, 0])
    engine, plain = torch.cat(short["engine"]), torch.cat(short["plain"])
    line = {
        "figure": "cuda_write_bfloat16_choices_not_float32s", "value": int((engine > 0).sum()), "unit": "tokens",
        "short_by_at_most": round(float(engine.max()), 4), "plain": int((plain > 0).sum()),
        "plain_short_by_at_most": round(float(plain.max()), 4), "differing_from_plain": differing, "n": len(engine), "device": device(),
    }  # fmt: skip
    print(json.dumps(line), flush=True)


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


def device() -> str:
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"


def figure(name: str, ours: list[float], peer: list[float], work: float, **facts: Any) -> None:
    """Ratio of rates, from seconds."""
    ratios = [b / a for a, b in zip(ours, peer, strict=True)]
    line = {
        "figure": name, "value": round(statistics.median(ratios), 3), "unit": "x", "ours": round(work / statistics.median(ours)),
        "peer": round(work / statistics.median(peer)), **facts, "n": len(ratios), "min": round(min(ratios), 3),
        "max": round(max(ratios), 3), "device": device(),
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
    model = our_model()
    ours, peer = our_writer(model), peer_writer()
    peer(alike(1))
    for name, work in (("b1", alike(1)), ("b8", alike(8)), ("b64", alike(64)), ("mixed16", unlike())):
        ours(work)  # records the graphs
        a, b = paired(lambda work=work: ours(work), lambda work=work: peer(work), rounds)
        wanted = sum(one for _, one in work)
        figure(f"cuda_write_tokens_per_s_ratio_{name}", a, b, wanted, peer_name="transformers generate")
    choices(model, work, ours(work))
    many = alike(256)
    ours(many)
    rates = [256 * 128 / seconds(lambda: ours(many), 1) for _ in range(rounds)]
    line = {"figure": "cuda_write_tokens_per_s_b256", "value": round(statistics.median(rates)), "unit": "tokens/s"}
    spread = {"n": len(rates), "min": round(min(rates)), "max": round(max(rates))}
    print(json.dumps(line | spread | {"device": device()}), flush=True)


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
