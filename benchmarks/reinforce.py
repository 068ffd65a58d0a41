"""What reinforcement learning gives in the default build, and what it costs: GRPO and PPO, several seeds, each beside fine-tuning.

    dunwu build
    python benchmarks/reinforce.py builds/demo [--seeds 0 1 2] > results.jsonl      # about a minute and a half for each run

From the build's fine-tuned model, with its recipe's settings of `rl` and other seeds. The mean score of unseen questions (up to
300 of each kind, as many as the world keeps out of training) under the exact rules, paired by question (95%): of answers drawn at
temperature 1, four to each question, which is what is learned to be better at, and of the likeliest answer; and held-out bits per
byte, paired by document. Nobody else's program is beside it: the comparison is the model before. One JSON line a figure; `value` is
the median over seeds, and every seed stands in it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common import print_figure

from dunwu.build.exam import exam_questions
from dunwu.chat.local import LocalChat
from dunwu.core.devices import pick_device, prepare_cpu
from dunwu.core.load import load_recipe
from dunwu.core.progress import SilentProgress
from dunwu.core.recipe import Recipe
from dunwu.corpus.store import read_documents
from dunwu.corpus.world import Question
from dunwu.evaluate.exam import BATCH, MAX_ANSWER_TOKENS, grade_answer, run_exam
from dunwu.evaluate.heldout import choose_text
from dunwu.evaluate.likelihood import score_text
from dunwu.evaluate.stats import paired_difference, paired_ratio_difference
from dunwu.model.hub import load_model
from dunwu.tokenizer.load import load_tokenizer

# What each method changes of the recipe's `rl` where that names another one: several updates of a rollout at GRPO's rate drift away.
METHODS: Mapping[str, Mapping[str, Any]] = {
    "grpo": {"algorithm": {"method": "grpo", "dynamic_sampling": True}},
    "ppo": {
        "algorithm": {"method": "ppo", "epochs": 1, "minibatches": 2, "lam": 1.0, "dynamic_sampling": True},
        "completions": 8,
        "steps": 120,
        "lr_adamw": 3e-4,
    },
}
QUESTIONS = 300  # of each kind, at most
DRAWS = 4  # answers to each


@dataclass(frozen=True)
class Measured:
    """Of one model: its score by question, drawn and greedily, bits and bytes by document, seconds and the doctor's worst word."""

    drawn: list[float]
    greedy: list[float]
    bits: list[float]
    bytes: list[float]
    seconds: float = 0.0
    lost: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options = parser.parse_args()
    prepare_cpu()
    recipe = load_recipe(options.home / "recipe.yaml")
    stages = json.loads((options.home / "build.json").read_text("utf-8"))["stages"]
    folders = {name: options.home / "stages" / folder for name, folder in stages.items()}
    before = measured(folders["sft"], recipe, folders["corpus"])
    for method in options.methods:
        report(method, before, [run(method, seed, recipe, folders) for seed in options.seeds], options.seeds)


def run(method: str, seed: int, recipe: Recipe, folders: Mapping[str, Path]) -> Measured:
    """The fine-tuned model, having learned from the exact rule with that method and seed."""
    section = recipe.rl.model_dump(mode="json", exclude_unset=True)
    own = section.get("algorithm", {}).get("method", "grpo") == method
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        asked = {
            "base": str(folders["sft"].resolve()),
            "seed": seed,
            "rl": {**section, **({} if own else METHODS[method]), "rewards": ["world"]},
            "evaluate": {"samples": 0},
        }
        file = Path(folder) / "recipe.yaml"
        file.write_text(json.dumps(asked), "utf-8")
        subprocess.run(
            [sys.executable, "-m", "dunwu", "build", str(file), f"out={home}"], check=True, stdout=sys.stderr
        )
        (record,) = (home / "stages").glob("rl-*/stage.json")
        facts = json.loads(record.read_text("utf-8"))["facts"]
        found = measured(home / "model", recipe, folders["corpus"])
        return replace(found, seconds=facts["seconds"], lost=facts["lost"])


def measured(folder: Path, recipe: Recipe, corpus: Path) -> Measured:
    """Unseen questions, and held-out text."""
    text = choose_text(read_documents(corpus, "heldout"), max_bytes=recipe.evaluate.heldout_bytes)
    tokenizer, model = load_tokenizer(folder), load_model(folder, device=pick_device())
    bits = score_text(
        model, tokenizer, text, context_length=recipe_context(recipe), progress=SilentProgress(),
        start_ids=tokenizer.start_ids,
    )  # fmt: skip
    chat, questions = LocalChat.load(folder), exam_questions(recipe, QUESTIONS)
    exam = run_exam(chat, questions, progress=SilentProgress())
    draws = [scores(chat, questions, seed) for seed in range(DRAWS)]
    return Measured(
        drawn=[sum(one) / DRAWS for one in zip(*draws, strict=True)],
        greedy=[float(row.right) for row in exam.rows],
        bits=[one.bits for one in bits.documents],
        bytes=[float(one.bytes) for one in bits.documents],
    )


def scores(chat: LocalChat, questions: Sequence[Question], seed: int) -> list[float]:
    """Of an answer to each question, drawn at temperature 1."""
    found: list[float] = []
    for first in range(0, len(questions), BATCH):
        batch = questions[first : first + BATCH]
        answers = chat.reply_batch(
            [question.messages for question in batch], max_tokens=MAX_ANSWER_TOKENS, temperature=1.0,
            seed=seed * len(questions) + first,
        )  # fmt: skip
        found += [grade_answer(one.grade, answer.text) for one, answer in zip(batch, answers, strict=True)]
    return found


def recipe_context(recipe: Recipe) -> int:
    """Tokens that the model was trained to read."""
    return int(recipe.model.context_length)


def report(method: str, before: Measured, runs: Sequence[Measured], seeds: Sequence[int]) -> None:
    """What was gained, and what it cost in bits."""
    ways = {
        "sampled": (before.drawn, [one.drawn for one in runs]),
        "greedy": (before.greedy, [one.greedy for one in runs]),
    }
    for way, (first, later) in ways.items():
        gains = [paired_difference(first, one) for one in later]
        print_figure(
            f"rl_{way}_gain_{method}",
            [gain.value for gain in gains],
            unit="share of questions",
            target="above 0 at 95%, every seed",
            before=round(sum(first) / len(first), 4),
            seeds={
                str(seed): {"gain": round(gain.value, 4), "low": round(gain.low, 4), "high": round(gain.high, 4)}
                for seed, gain in zip(seeds, gains, strict=True)
            },
            questions=len(first),
            seconds=[round(one.seconds, 1) for one in runs],
            lost=[one.lost for one in runs],
        )
    start = sum(before.bits) / sum(before.bytes)
    costs = [paired_ratio_difference(before.bits, one.bits, before.bytes) for one in runs]
    print_figure(
        f"rl_bits_per_byte_change_{method}",
        [cost.value / start for cost in costs],
        unit="share",
        target="<0.02",
        before=round(start, 4),
        seeds={
            str(seed): {"low": round(cost.low / start, 4), "high": round(cost.high / start, 4)}
            for seed, cost in zip(seeds, costs, strict=True)
        },
    )


if __name__ == "__main__":
    main()
