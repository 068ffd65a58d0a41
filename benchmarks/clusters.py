"""Does tuning on more kinds of tasks help on a kind never seen? One cluster of tasks is held out, as FLAN did (arXiv:2109.01652).

    python benchmarks/clusters.py BASE --data DATA        # into results/clusters.jsonl, and docs/instruction_tuning.md
    python benchmarks/clusters.py --page

BASE is that of `deltas.py`; DATA holds `instruct_p3_tasks`: 40 prompt templates of P3 in seven clusters. For each held-out cluster, the
base is tuned (all weights) on 1, 2, 4 and all 6 others, in orders drawn by seed, for the same number of steps. Measured on the held-out
cluster, without examples of it: bits a byte of the right answers (interval by question), and, where a template has two answers or more
to choose from, how often the right one is the likelier, averaged over the answers, so that a constant answer scores as chance does.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from deltas import CONTEXT, ROWS, answer_bits, machine

from dunwu.core import devices
from dunwu.core.recipe import TrainSection
from dunwu.core.records import Example, Message
from dunwu.corpus.conversations import encode_example, fit
from dunwu.corpus.stream import SftStream
from dunwu.evaluate.stats import mean_interval, ratio_interval
from dunwu.model.decoder import Decoder
from dunwu.model.hub import load_model
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.load import load_tokenizer
from dunwu.train.objectives import causal_lm
from dunwu.train.optim import build_optimizer
from dunwu.train.schedule import lr_scale

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results/clusters.jsonl", HERE.parent / "docs/instruction_tuning.md"
CLUSTERS: dict[str, tuple[str, ...]] = {
    "paraphrase": ("paws_", "glue_mrpc_equivalent", "glue_qqp_"),
    "is it right": ("wiki_qa_", "qasc_", "social_i_qa_", "wiqa_"),
    "closed book": ("kilt_tasks_", "commonsense_qa_answer_given", "sciq_Direct_Question_Closed"),
    "reading": ("ropes_", "quoref_", "quarel_", "sciq_Direct_Question", "wiki_bio_guess"),
    "topic": ("ag_news_", "dbpedia_14_"),
    "sentiment": ("rotten_tomatoes_", "app_reviews_"),
    "writing": (
        "gigaword_",
        "xsum_",
        "common_gen_",
        "glue_mrpc_generate",
        "dream_",
        "wiki_bio_compre",
        "commonsense_qa_answer_to",
    ),
}
HELD_OUT = ("paraphrase", "is it right", "reading")
COUNTS, SEEDS, STEPS, LR = (1, 2, 4, 6), (0, 1, 2), 80, 1e-3
QUESTIONS = 150


def cluster_of(template: str) -> str | None:
    """The cluster with the longest name that fits; None for templates that are left out."""
    fits = [(len(start), name) for name, starts in CLUSTERS.items() for start in starts if template.startswith(start)]
    return max(fits)[1] if fits else None


def tasks(data: Path) -> dict[str, list[tuple[str, Example]]]:
    """Template and conversation of every row with an answer, by cluster."""
    found: dict[str, list[tuple[str, Example]]] = defaultdict(list)
    with gzip.open(data / "instruct_p3_tasks/p3_tasks.jsonl.gz", "rt", encoding="utf-8") as file:
        for number, row in enumerate(map(json.loads, file)):
            answer = row["completion"].removesuffix("<|endoftext|>").strip()
            cluster = cluster_of(row["template"])
            if cluster and answer:
                found[cluster].append((row["template"], conversation(row["prompt"], answer, str(number))))
    return found


def conversation(question: str, answer: str, source: str) -> Example:
    return Example(
        messages=(Message(role="user", content=question.strip()), Message(role="assistant", content=answer)),
        source=source,
    )


def encoded(tokenizer: TokenizerLike, example: Example) -> Any:
    return fit(example, lambda shorter: encode_example(tokenizer, shorter), CONTEXT + 1).tokens


def tune(
    model: Decoder, tokenizer: TokenizerLike, found: dict[str, list[tuple[str, Example]]], clusters: Sequence[str]
) -> float:
    """Tune in place, each cluster as often as any other; gives the last steps' loss."""
    largest = max(len(found[name]) for name in clusters)
    rows = [found[name][place % len(found[name])][1] for name in clusters for place in range(largest)]
    stream = SftStream(
        [one for row in rows if (one := encoded(tokenizer, row)) is not None], context_length=CONTEXT, seed=0
    )
    section = TrainSection(optimizer="adamw", weight_decay=0.0)
    optimizer = build_optimizer(model, section, (0.0, LR))
    losses = []
    model.train()
    for step in range(STEPS):
        batch = stream.batch(step * ROWS, ROWS)
        loss, _ = causal_lm(model, batch, total_learned=batch.learned_tokens)
        loss.backward()
        optimizer.step(lr_scale(section, (step + 0.5) / STEPS), 1.0)
        losses.append(float(loss.detach()))
    model.eval()
    return sum(losses[-10:]) / 10


def measured(model: Decoder, tokenizer: TokenizerLike, rows: Sequence[tuple[str, Example]]) -> dict[str, Any]:
    """Bits a byte of the right answers, and the balanced share of right choices."""
    order = np.random.default_rng(0).permutation(len(rows))
    chosen = list(islice((rows[place] for place in order), QUESTIONS))
    answers: dict[str, set[str]] = defaultdict(set)
    for template, example in rows:
        answers[template].add(example.messages[-1].content)
    bits = answer_bits(model, [encoded(tokenizer, example) for _, example in chosen])
    sizes = [len(example.messages[-1].content.encode()) for _, example in chosen]
    estimate = ratio_interval(bits, sizes)
    by_answer: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for template, example in chosen:
        options = sorted(answers[template])
        if 2 <= len(options) <= 5:
            tried = [conversation(example.messages[0].content, option, "") for option in options]
            costs = answer_bits(model, [encoded(tokenizer, one) for one in tried])
            right = example.messages[-1].content
            by_answer[template, right].append(options[int(np.argmin(costs))] == right)
    result: dict[str, Any] = {
        "bits_per_byte": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "n": len(bits),
    }
    if by_answer:
        result["balanced"] = sum(sum(right) / len(right) for right in by_answer.values()) / len(by_answer)
        result["choices"] = sum(map(len, by_answer.values()))
    return result


def run(base: Path, data: Path, held_out: str, count: int, seed: int) -> dict[str, Any]:
    devices.prepare_cpu()
    tokenizer, found = load_tokenizer(base), tasks(data)
    model = load_model(base, mapped=False)
    others = sorted(name for name in CLUSTERS if name != held_out)
    clusters = [others[place] for place in np.random.default_rng(seed).permutation(len(others))][:count]
    loss = tune(model, tokenizer, found, clusters) if count else None
    return {
        "held_out": held_out, "clusters": clusters, "count": count, "seed": seed, "train_loss": loss,
        **measured(model, tokenizer, found[held_out]), "device": machine(),
    }  # fmt: skip


def all_runs(arguments: argparse.Namespace) -> None:
    done = {(row["held_out"], row["count"], row["seed"]) for row in stored()}
    wanted = [(name, 0, 0) for name in HELD_OUT]
    wanted += [(name, count, seed) for name in HELD_OUT for seed in SEEDS for count in COUNTS if count < 6 or seed == 0]
    for key in wanted:
        if key in done:
            continue
        process = subprocess.run(
            [sys.executable, __file__, str(arguments.base), "--data", str(arguments.data), "--child", json.dumps(key)],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        line = process.stdout.splitlines()[-1]
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line[:200], flush=True)


def stored() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()] if RESULTS.exists() else []


def page() -> str:
    rows = stored()
    lines = [
        "# Tuning on some kinds of tasks, asked another",
        "",
        "Made by `benchmarks/clusters.py`: 40 prompt templates of P3 in seven clusters of tasks. One cluster is held out; the base of "
        "[deltas.md](deltas.md) is tuned, all weights, on 1, 2, 4 and all 6 of the others, in orders drawn by seed, for the same number of "
        "steps, and asked the held-out one without examples of it. Measured are bits a byte of the right answers and, where a template "
        "has from two to five answers, how often the right one is the likelier, averaged over the answers.",
        "",
        f"{STEPS} steps of {ROWS} × {CONTEXT} tokens, AdamW at {LR:g}; n = {rows[0]['n']} questions a held-out cluster. "
        "The interval is that of the questions in one run; several orders of clusters are listed by their mean and range.",
        "",
        "| held out | clusters trained on | bits a byte (range of orders) | interval of the first | right choices, balanced |",
        "|---|---|---|---|---|",
    ]
    slopes = []
    for name in HELD_OUT:
        curve = []
        for count in (0, *COUNTS):
            some = [row for row in rows if (row["held_out"], row["count"]) == (name, count)]
            if not some:
                continue
            bits = [row["bits_per_byte"] for row in some]
            curve.append((count, sum(bits) / len(bits)))
            balanced = [row["balanced"] for row in some if "balanced" in row]
            lines.append(
                f"| {name} | {count or 'none: the base'} | {sum(bits) / len(bits):.3f}"
                + (f" ({min(bits):.3f} to {max(bits):.3f})" if len(bits) > 1 else "")
                + f" | [{some[0]['low']:.3f}, {some[0]['high']:.3f}] | "
                + (f"{mean_interval(balanced).value:.2f} of {some[0]['choices']}" if balanced else "–")
                + " |"
            )
        slopes.append((name, curve))
    lines += ["", *findings(slopes, rows)]
    return "\n".join(lines) + "\n"


def findings(slopes: Sequence[tuple[str, list[tuple[int, float]]]], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Said whichever way it comes out."""
    falls, told = [], []
    for name, curve in slopes:
        tuned = [bits for count, bits in curve if count]
        falls.append(tuned[-1] < tuned[0])
        told.append(
            f"{name}: {curve[0][1]:.3f} untuned, {tuned[0]:.3f} after one cluster, {tuned[-1]:.3f} after {curve[-1][0]}"
        )
    verdict = {3: "falls with", 0: "does not fall with"}.get(sum(falls), "falls only for some held-out clusters with")
    choices = {row["held_out"]: row["balanced"] for row in rows if row["count"] == 6 and "balanced" in row}
    near = all(abs(share - 0.5) < 0.15 for share in choices.values())
    return [
        f"The held-out cost of the right answers {verdict} the number of clusters trained on ({'; '.join(told)}).",
        "",
        "Choosing between the answers that a template allows comes to "
        + ", ".join(f"{share:.2f} ({name})" for name, share in choices.items())
        + " with all clusters, where a constant answer scores 0.50. "
        + (
            "So what carries over at this size is what an answer looks like (its length, its form, which words it may be), and hardly "
            "the judgement itself."
            if near
            else "So some judgement carries over too."
        )
        + " FLAN found that tuning helped on unseen clusters from some tens of billions of parameters on, and hurt below eight (section 4.2).",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, nargs="?")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.page and (arguments.base is None or arguments.data is None):
        parser.error("name the base and --data, or ask for --page alone")
    if arguments.child:
        print(json.dumps(run(arguments.base, arguments.data, *json.loads(arguments.child))), flush=True)
        os._exit(0)
    if not arguments.page:
        all_runs(arguments)
    PAGE.write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
