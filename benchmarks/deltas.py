"""What each way of tuning costs and gives: one base, three tasks, every method beside full tuning.

    dunwu build benchmarks/deltas_base.yaml corpus.sources.1.path=BOOKS corpus.sources.2.path=NOVELS out=BASE
    python benchmarks/deltas.py BASE --data DATA --rates     # which learning rate each method likes; into results/delta_rates.json
    python benchmarks/deltas.py BASE --data DATA             # into results/deltas.jsonl, and the page docs/deltas.md from it
    python benchmarks/deltas.py --page                       # only the page

DATA holds `instruct_alpaca_en` and `zh_classical_modern`. Tasks: `world`, questions about the small world, graded by its exam on
combinations never trained on; `alpaca`, English instructions; `classical`, classical Chinese into modern, held out by book. Every run
is a process of its own: the same rows in the same order, the same schedule, the method's own learning rate, chosen in short
runs on `classical`, by rows that are used for nothing else. The held-out measure is bits a byte of the answers, with intervals by example; a method is
beside full tuning on the same examples (paired). Memory is the peak of training above the loaded base.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import forget_peak, status_bytes

from dunwu.build import costs
from dunwu.chat.local import LocalChat
from dunwu.core import devices
from dunwu.core.deltas import delta_spec
from dunwu.core.progress import SilentProgress
from dunwu.core.recipe import SftFileSource, SftWorldSource, TrainSection
from dunwu.core.records import Example, Tokens
from dunwu.corpus.conversations import encode_example
from dunwu.corpus.instructions import InstructionReader
from dunwu.corpus.stream import SftStream
from dunwu.corpus.world import world_exam
from dunwu.delta.base import Delta
from dunwu.delta.quantise import quantise_base
from dunwu.delta.registry import DELTAS, attach
from dunwu.delta.storing import save_delta
from dunwu.evaluate.exam import run_exam
from dunwu.evaluate.stats import mean_interval, paired_ratio_difference, ratio_interval, wilson
from dunwu.infer.generate import Generator
from dunwu.model.count import parameters
from dunwu.model.decoder import Decoder
from dunwu.model.hub import load_model
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.load import load_tokenizer
from dunwu.train.learned import Deltas
from dunwu.train.objectives import causal_lm
from dunwu.train.optim import Optimizer, build_delta_optimizer, build_optimizer
from dunwu.train.schedule import lr_scale

HERE = Path(__file__).parent
RESULTS, RATES, PAGE = HERE / "results/deltas.jsonl", HERE / "results/delta_rates.json", HERE.parent / "docs/deltas.md"
CONTEXT, ROWS, STEPS = 256, 4, 80
LOOKS = (10, 20, 30, 40, 60, 80)
HELD_OUT, TRAIN, RATE_ROWS = 120, 4000, 100
QUESTIONS = 15  # of each kind of the exam
TARGET = 0.9  # of what full tuning gains
TASKS = ("world", "alpaca", "classical")
TITLES = {
    "world": "the small world (questions on combinations never trained on)",
    "alpaca": "English instructions (Alpaca)",
    "classical": "classical Chinese into modern (held out by book)",
}
FULL: Mapping[str, Any] = {}
METHODS: dict[str, Mapping[str, Any]] = {
    "full": FULL,
    "full, Muon": {"optimizer": "muon"},
    "LoRA r=2": {"method": "lora", "r": 2},
    "LoRA r=8": {"method": "lora", "r": 8},
    "LoRA r=8, q and v": {"method": "lora", "r": 8, "targets": ["q_proj", "v_proj"]},
    "LoRA r=32": {"method": "lora", "r": 32},
    "rsLoRA r=32": {"method": "rslora", "r": 32},
    "LoRA+ r=8": {"method": "lora_plus", "r": 8},
    "DoRA r=8": {"method": "dora", "r": 8},
    "PiSSA r=8": {"method": "pissa", "r": 8},
    "EVA r=8": {"method": "eva", "r": 8},
    "VeRA r=64": {"method": "vera", "r": 64},
    "QLoRA r=8, NF4": {"method": "lora", "r": 8, "base_weights": "nf4"},
    "Houlsby": {"method": "houlsby"},
    "Pfeiffer": {"method": "pfeiffer"},
    "parallel adapter": {"method": "parallel_adapter"},
    "prefix tuning": {"method": "prefix"},
    "prompt tuning": {"method": "prompt"},
    "P-tuning v2": {"method": "p_tuning_v2"},
    "(IA)³": {"method": "ia3"},
    "BitFit": {"method": "bitfit"},
    "norms": {"method": "norms"},
    "last 2 layers": {"method": "last_layers", "layers": 2},
    "Fisher mask 0.5%": {"method": "fisher_mask"},
}
TRIED_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
RATE_STEPS = 40


# ---- the tasks


def examples(task: str, data: Path, *, held_out: bool) -> Iterator[Example]:
    """The conversations to learn from, or those held out, in a fixed order."""
    if task == "world":
        source = SftWorldSource(seed=0, size=1.0)
        everything = list(costs.sft_examples(source))
        order = np.random.default_rng(0).permutation(len(everything))
        chosen = order[:HELD_OUT] if held_out else order[HELD_OUT:]
        yield from (everything[place] for place in chosen)
    elif task == "alpaca":
        path = data / "instruct_alpaca_en/alpaca_en_10k.jsonl.gz"
        for place, example in enumerate(InstructionReader(SftFileSource(path=str(path)), seed=0)):
            if (place % 20 == 0) == held_out:
                yield example
    else:
        path = data / "zh_classical_modern/pairs.jsonl.gz"
        source = SftFileSource.model_validate({
            "path": str(path), "phrasings": ["translation-zh"], "columns": {"text": "classical", "translation": "modern"},
            "constants": {"source_language": "文言文", "target_language": "白话文"},
        })  # fmt: skip
        books = _books(path)
        for example in InstructionReader(source, seed=0):
            place = int(example.source.rpartition("#")[2])
            if (books[place - 1] in ("世说新语", "梦溪笔谈")) == held_out and place % 7 == 0:
                yield example


def _books(path: Path) -> list[str]:
    import gzip

    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line)["book"] for line in file]


# ---- one run


def answer_bits(model: Decoder, encoded: Sequence[Any]) -> list[float]:
    """Bits of each example's answer."""
    bits: list[float] = []
    with torch.inference_mode():
        for first in range(0, len(encoded), 8):
            some = encoded[first : first + 8]
            longest = max(len(one.ids) for one in some)
            ids_BT = torch.tensor([[*one.ids, *[0] * (longest - len(one.ids))] for one in some])
            hidden_BTD = model(ids_BT[:, :-1])
            for row, one in enumerate(some):
                places = torch.from_numpy(np.flatnonzero(one.learned[1:]))
                logits_NV = model.logits(hidden_BTD[row, places]).float()
                targets_N1 = ids_BT[row, places + 1][:, None]
                nats = -logits_NV.log_softmax(-1).gather(1, targets_N1).sum()
                bits.append(float(nats) / math.log(2))
    return bits


def answer_bytes(example: Example) -> int:
    return sum(len(message.content.encode()) for message in example.messages if message.role == "assistant")


def within(base: Path, data: Path, task: str, work: Path, *, held_out: bool) -> tuple[list[int], list[Tokens]]:
    """Examples that fit the context: the bytes of their answers, and their tokens. Kept in `work`: reading takes longer than a run."""
    kept = work / f"{task}-{'held' if held_out else 'train'}.npz"
    most = HELD_OUT if held_out else TRAIN + RATE_ROWS
    if not kept.exists():
        tokenizer = load_tokenizer(base)
        pairs = ((one, encode_example(tokenizer, one)) for one in examples(task, data, held_out=held_out))
        fitting = list(islice(((one, tokens) for one, tokens in pairs if len(tokens.ids) <= CONTEXT + 1), most))
        work.mkdir(parents=True, exist_ok=True)
        np.savez(
            kept, ids=np.concatenate([tokens.ids for _, tokens in fitting]), sizes=[answer_bytes(one) for one, _ in fitting],
            learned=np.concatenate([tokens.learned for _, tokens in fitting]), lengths=[len(tokens.ids) for _, tokens in fitting],
        )  # fmt: skip
    found = np.load(kept)
    ends = np.cumsum(found["lengths"])[:-1]
    parts = zip(np.split(found["ids"], ends), np.split(found["learned"], ends), strict=True)
    return [*map(int, found["sizes"])], [Tokens(ids=ids, learned=learned) for ids, learned in parts]


def run(
    base: Path, data: Path, task: str, label: str, lr: float, steps: int, work: Path, *, whole: bool
) -> dict[str, Any]:
    """Train once; `whole`: with all measures, not only the loss at the end on rows kept for choosing rates."""
    devices.prepare_cpu()
    tokenizer = load_tokenizer(base)
    sizes, train = within(base, data, task, work, held_out=False)
    sizes, train, held = sizes[TRAIN:][:60], train[: -RATE_ROWS or None], train[TRAIN:][:60]
    if whole:
        sizes, held = within(base, data, task, work, held_out=True)
    stream = SftStream(train, context_length=CONTEXT, seed=0)
    model = load_model(base, mapped=False)
    plain = model_speed(model, tokenizer) if whole else 0.0
    forget_peak()
    before = status_bytes("VmRSS")
    optimizer, count, folder_bytes, learned = prepared(model, METHODS[label], lr, stream)
    section = TrainSection()
    curve: list[tuple[int, float]] = []
    seconds, learned_tokens = 0.0, 0
    model.train()
    peak = 0
    for step in range(steps):
        batch = stream.batch(step * ROWS, ROWS)
        start = time.perf_counter()
        loss, _ = causal_lm(model, batch, total_learned=batch.learned_tokens)
        loss.backward()
        optimizer.step(lr_scale(section, (step + 0.5) / steps), 1.0)
        seconds += time.perf_counter() - start
        learned_tokens += batch.ids_BT.numel()
        if step == 2:
            peak = status_bytes("VmHWM") - before
        if whole and step + 1 in LOOKS:
            model.eval()
            curve.append((step + 1, sum(answer_bits(model, held)) / sum(sizes)))
            model.train()
    model.eval()
    bits = answer_bits(model, held)
    result: dict[str, Any] = {
        "task": task, "method": label, "lr": lr, "steps": steps, "trained": count, "of": parameters(model.config),
        "bits_per_byte": sum(bits) / sum(sizes), "tokens_per_s": learned_tokens / seconds,
    }  # fmt: skip
    if not whole:
        return result
    estimate = ratio_interval(bits, sizes)
    result |= {
        "low": estimate.low, "high": estimate.high, "n": len(bits), "curve": curve, "extra_bytes": peak,
        "written_bytes": folder_bytes(), "bits": bits, "sizes": sizes,
        "writing_share": model_speed(model, tokenizer) / plain,
    }  # fmt: skip
    if learned is not None and "base_weights" not in METHODS[label] and all(one.mergeable for one in learned.deltas):
        for delta in learned.deltas:
            delta.merge()
        result["writing_share_merged"] = model_speed(model, tokenizer) / plain
    if task == "world":
        exam = run_exam(
            LocalChat(Generator(model, tokenizer)),
            world_exam(0, ("en", "zh"), QUESTIONS, size=1.0),
            progress=SilentProgress(),
        )
        right = sum(row.right for row in exam.rows)
        low, high = wilson(right, len(exam.rows))
        result["exam"] = {"share": right / len(exam.rows), "low": low, "high": high, "n": len(exam.rows)}
    return result


def prepared(
    model: Decoder, method: Mapping[str, Any], lr: float, stream: SftStream
) -> tuple[Optimizer, int, Any, Deltas | None]:
    """What steps, how many numbers learn, and how large what is saved is."""
    if "method" not in method:
        kind = method.get("optimizer", "adamw")
        optimizer = build_optimizer(
            model, TrainSection(optimizer=kind, weight_decay=0.0), (lr, lr / 4 if kind == "muon" else lr)
        )
        count = sum(parameter.numel() for parameter in model.parameters())
        return optimizer, count, lambda: 4 * count, None
    options = dict(method)
    quantise_base(model, options.pop("base_weights", "float"))
    delta = attach(model, delta_spec(options), seed=0)
    learn_from(delta, model, stream)
    deltas = Deltas([delta])
    optimizer = build_delta_optimizer(deltas, TrainSection(weight_decay=0.0), lr)

    def size() -> int:
        with tempfile.TemporaryDirectory() as folder:
            save_delta(delta, Path(folder))
            return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())

    return optimizer, delta.count, size, deltas


def learn_from(delta: Delta[Any], model: Decoder, stream: SftStream) -> None:
    """Show a few batches to the methods that look at data before they start."""

    def read(row: int) -> torch.Tensor:
        batch = stream.batch(row, ROWS)
        return causal_lm(model, batch, total_learned=batch.learned_tokens)[0]

    delta.start_from([partial(read, 10**6 + place * ROWS) for place in range(16)])


def model_speed(model: Decoder, tokenizer: TokenizerLike) -> float:
    """Tokens a second, eight texts at once, the best of two."""
    generator = Generator(model, tokenizer)
    best = 0.0
    for _ in range(2):
        start = time.perf_counter()
        done = generator.complete_batch([[5, 6, 7 + n] for n in range(8)], max_new_tokens=48, stop_ids=())
        best = max(best, sum(len(one.ids) for one in done) / (time.perf_counter() - start))
    return best


# ---- all runs


def child(
    arguments: argparse.Namespace, task: str, label: str, lr: float, steps: int, *, whole: bool
) -> dict[str, Any]:
    told = json.dumps([task, label, lr, steps, whole])
    data, work = str(arguments.data), str(arguments.work)
    process = subprocess.run(
        [sys.executable, __file__, str(arguments.base), "--data", data, "--work", work, "--child", told],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if process.returncode != 0:
        raise SystemExit(f"{label} on {task} failed with {process.returncode}")
    return json.loads(process.stdout.splitlines()[-1])


def known(labels: Sequence[str]) -> list[str]:
    """Those of the labels whose method this dunwu has."""
    return [label for label in labels if METHODS[label].get("method", "lora") in DELTAS]


def rates(arguments: argparse.Namespace) -> None:
    """Short runs with each rate; the best one, and its neighbours' losses, are written down."""
    found = json.loads(RATES.read_text("utf-8")) if RATES.exists() else {}
    for label in known(arguments.methods):
        if label in found:
            continue
        tried: dict[str, float] = {}

        def bits(place: int, label: str = label, tried: dict[str, float] = tried) -> float:
            lr = TRIED_RATES[place]
            if str(lr) not in tried:
                tried[str(lr)] = round(
                    child(arguments, "classical", label, lr, RATE_STEPS, whole=False)["bits_per_byte"], 4
                )
            return tried[str(lr)] if math.isfinite(tried[str(lr)]) else math.inf

        middle = 2
        for way in (1, -1):
            place = middle
            while 0 <= place + way < len(TRIED_RATES) and bits(place + way) < bits(place):
                place += way
            if place != middle:
                break
        chosen = min(tried, key=lambda lr: (math.isnan(tried[lr]), tried[lr]))
        found[label] = {"lr": float(chosen), "tried": tried}
        print(label, found[label], flush=True)
        RATES.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")


def all_runs(arguments: argparse.Namespace) -> None:
    chosen = json.loads(RATES.read_text("utf-8"))
    done = {(row["task"], row["method"]) for row in stored()}
    rows_of_full: dict[str, dict[str, Any]] = {}
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    for task in arguments.tasks:
        for label in [one for one in known(arguments.methods) if one in chosen]:
            kept = work / f"{task}-{label.replace(' ', '_').replace('/', '_')}.json"
            if kept.exists():
                row = json.loads(kept.read_text("utf-8"))
            else:
                row = child(arguments, task, label, chosen[label]["lr"], arguments.steps, whole=True)
                kept.write_text(json.dumps(row), "utf-8")
            if label == "full":
                rows_of_full[task] = row
            if (task, label) in done:
                continue
            against = paired_ratio_difference(rows_of_full[task]["bits"], row["bits"], row["sizes"])
            row["against_full"] = {"difference": against.value, "low": against.low, "high": against.high}
            line = {key: value for key, value in row.items() if key not in ("bits", "sizes")}
            line |= {"base_bits_per_byte": base_bits(arguments, task, work), "device": machine()}
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            print(task, label, round(row["bits_per_byte"], 4), flush=True)


def base_bits(arguments: argparse.Namespace, task: str, work: Path) -> float:
    """Of the base before tuning."""
    kept = work / f"{task}-base.json"
    if not kept.exists():
        sizes, held = within(arguments.base, arguments.data, task, work, held_out=True)
        kept.write_text(json.dumps(sum(answer_bits(load_model(arguments.base), held)) / sum(sizes)), "utf-8")
    return json.loads(kept.read_text("utf-8"))


def machine() -> str:
    return f"{devices.cpu_name()}, {devices.available_cores()} threads, torch {torch.__version__}"


def stored() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()] if RESULTS.exists() else []


# ---- the page


def page() -> str:
    rows = stored()
    of: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        of.setdefault(row["task"], {})[row["method"]] = row
    some = rows[0]
    shares = [row["writing_share_merged"] for row in rows if "writing_share_merged" in row]
    least, most = min(shares), max(shares)
    parts = [
        "# What each way of tuning costs and gives",
        "",
        "Made by `benchmarks/deltas.py`; run it on your own base and tasks. The base is a model of "
        f"{some['of'] / 1e6:.1f} million parameters, trained on the small world, English books and one Chinese novel "
        "(`benchmarks/deltas_base.yaml`). "
        f"Every run: {some['steps']} steps of {ROWS} × {CONTEXT} tokens, the same rows in the same order, AdamW unless it says "
        "otherwise, and the learning rate that the method liked best of "
        f"{', '.join(f'{lr:g}' for lr in TRIED_RATES)} in runs of {RATE_STEPS} steps on one task, by rows that are used for nothing else "
        "(`results/delta_rates.json`). One seed.",
        "",
        "- *gain kept*: what the method gains over the untouched base in bits a byte of held-out answers, as a share of what full "
        "tuning with AdamW gains.",
        "- *worse than full by*: bits a byte on the same answers, with a 95% interval (paired, by example).",
        f"- *steps to target*: steps until {TARGET:.0%} of full tuning's gain, between the points at which was looked.",
        "- *memory*: the peak of training above the loaded base, read off the process. *speed*: tokens a second of training.",
        "- *writing*: tokens a second of generation with the delta attached (merged), as a share of the base's; eight texts at once.",
        "",
        f"Machine: {some['device']}, with other work beside: read speeds as rough ratios. Writing was timed for about a second: merged "
        f"deltas, which do the base's own work, came to {least:.0%} to {most:.0%}, which is the size of the noise.",
        "",
        f"The runs are short. What had not learned all that it can in {some['steps']} steps may catch up in more.",
    ]
    for task in [task for task in TASKS if task in of]:
        parts += ["", f"## {TITLES[task][0].upper() + TITLES[task][1:]}", "", *table(task, of[task])]
    parts += ["", "## What is said of these methods, and what came out here", "", *claims(of)]
    return "\n".join(parts) + "\n"


def table(task: str, of: Mapping[str, dict[str, Any]]) -> list[str]:
    full = of["full"]
    exam = task == "world"
    head = [
        "method",
        "trained",
        "saved",
        "memory",
        "speed",
        "steps to target",
        "bits a byte",
        "gain kept",
        "worse than full by",
        "writing",
    ]
    lines = [
        f"The base alone: {full['base_bits_per_byte']:.3f} bits a byte; n = {full['n']} answers"
        + (f"; exam of {full['exam']['n']} questions." if exam else "."),
        "",
        "| " + " | ".join(head + (["exam"] if exam else [])) + " |",
        "|---" * (len(head) + exam) + "|",
    ]
    for label, row in of.items():
        against = row["against_full"]
        merged = row.get("writing_share_merged")
        cells = [
            label, f"{row['trained'] / row['of']:.2%}", size(row["written_bytes"]), size(row["extra_bytes"]),
            f"{row['tokens_per_s']:,.0f}", steps_to_target(row, full),
            f"{row['bits_per_byte']:.3f} [{row['low']:.3f}, {row['high']:.3f}]", f"{gain_kept(row, full):.0%}",
            "–" if label == "full" else f"{against['difference']:+.3f} [{against['low']:+.3f}, {against['high']:+.3f}]",
            f"{row['writing_share']:.0%}" + (f" ({merged:.0%})" if merged is not None else ""),
        ]  # fmt: skip
        if exam:
            cells.append(f"{row['exam']['share']:.2f} [{row['exam']['low']:.2f}, {row['exam']['high']:.2f}]")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def gain_kept(row: Mapping[str, Any], full: Mapping[str, Any]) -> float:
    base = full["base_bits_per_byte"]
    return (base - row["bits_per_byte"]) / (base - full["bits_per_byte"])


def steps_to_target(row: Mapping[str, Any], full: Mapping[str, Any]) -> str:
    base = full["base_bits_per_byte"]
    target = base - TARGET * (base - full["bits_per_byte"])
    before = (0, base)
    for step, bits in row["curve"]:
        if bits <= target:
            share = (before[1] - target) / (before[1] - bits)
            return f"{before[0] + share * (step - before[0]):.0f}"
        before = (step, bits)
    return "not reached"


def size(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def claims(of: Mapping[str, Mapping[str, dict[str, Any]]]) -> list[str]:
    """Each claim, whether it holds here, and the figures."""

    def kept(label: str) -> dict[str, float]:
        return {task: gain_kept(rows[label], rows["full"]) for task, rows in of.items() if label in rows}

    def told(values: Mapping[str, float]) -> str:
        return ", ".join(f"{task} {value:.0%}" for task, value in values.items())

    def verdict(holds: Sequence[bool]) -> str:
        return "holds" if all(holds) else "does not hold" if not any(holds) else "holds on some of the tasks"

    lines = []
    if bitfit := kept("BitFit"):
        lines.append(
            "- *BitFit comes near 95% of full tuning* (arXiv:2106.10199, on GLUE with BERT). Here it "
            f"{verdict([share >= 0.95 for share in bitfit.values()])}: gain kept {told(bitfit)}. This base has no biases of its own; "
            "they begin at zero."
        )
    ranks = [label for label in METHODS if label.startswith("LoRA r") and "q and v" not in label]
    equal = {
        task: [label for label in ranks if label in rows and rows[label]["against_full"]["low"] <= 0]
        for task, rows in of.items()
    }
    if any(label in rows for rows in of.values() for label in ranks):
        lines.append(
            "- *LoRA equals full tuning at some rank* (arXiv:2106.09685). Here it "
            f"{verdict([bool(found) for found in equal.values()])}: not told from full tuning, or better, are "
            + "; ".join(f"{task}: {', '.join(found) or 'none'}" for task, found in equal.items())
            + f". Gain kept at rank 8: {told(kept('LoRA r=8'))}; at rank 32: {told(kept('LoRA r=32'))}."
        )
    slow = {
        label: [rows[label]["writing_share"] for rows in of.values() if label in rows]
        for label in ("Houlsby", "Pfeiffer", "parallel adapter")
    }
    slow = {label: shares for label, shares in slow.items() if shares}
    if slow:
        lines.append(
            "- *Adapters cost at inference, LoRA merged does not* (arXiv:2106.09685, table 1). Here it "
            f"{verdict([max(shares) < 0.95 for shares in slow.values()])}: writing with them attached at "
            + ", ".join(f"{label} {mean_interval(shares).value:.0%}" for label, shares in slow.items())
            + f" of the base's speed; LoRA r=8 attached at {_mean(of, 'LoRA r=8', 'writing_share'):.0%}, merged at "
            f"{_mean(of, 'LoRA r=8', 'writing_share_merged'):.0%}."
        )
    if ia3 := kept("(IA)³"):
        lines.append(
            "- *(IA)³ beats full tuning with few parameters* (arXiv:2205.05638, few-shot with T0). Here it "
            f"{verdict([share >= 1 for share in ia3.values()])}: gain kept {told(ia3)}."
        )
    if prompt := kept("prompt tuning"):
        lines.append(
            "- *Prompt tuning needs a large model* (arXiv:2104.08691: far behind below a billion parameters). Here it "
            f"{verdict([share < 0.9 for share in prompt.values()])}: gain kept {told(prompt)}."
        )
    if dora := kept("DoRA r=8"):
        plain = kept("LoRA r=8")
        lines.append(
            "- *DoRA does better than LoRA of the same rank* (arXiv:2402.09353). Here it "
            f"{verdict([share > plain[task] for task, share in dora.items()])}: {told(dora)} against {told(plain)}."
        )
    return lines


def _mean(of: Mapping[str, Mapping[str, dict[str, Any]]], label: str, key: str) -> float:
    values = [rows[label][key] for rows in of.values() if key in rows.get(label, {})]
    return sum(values) / len(values) if values else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, nargs="?")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rates", action="store_true")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "dunwu-deltas")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.page and (arguments.base is None or arguments.data is None):
        parser.error("name the base and --data, or ask for --page alone")
    if arguments.child:
        task, label, lr, steps, whole = json.loads(arguments.child)
        answer = run(arguments.base, arguments.data, task, label, lr, steps, arguments.work, whole=whole)
        print(json.dumps(answer), flush=True)
        os._exit(0)
    if arguments.rates:
        rates(arguments)
        return
    if not arguments.page:
        all_runs(arguments)
    PAGE.write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
