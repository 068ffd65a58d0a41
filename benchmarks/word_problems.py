"""Word problems before and after reinforcement learning where only the final answer is judged: pass@1 and pass@8, unseen problems.

    dunwu build word_problems
    python benchmarks/word_problems.py builds/word-problems [--data DATA] > results.jsonl

Generated problems have calculations that no training problem has: as many steps and as large numbers as in training, then more of
either. With DATA, real ones too (AddSub, MultiArith, SingleEq of `eval_cot_suite`), which the generator knows nothing of. Eight answers a problem at temperature 1, judged by the reward `math`; pass@k
by the unbiased estimator (arXiv:2107.03374), Wilson's interval over problems; the change of pass@1 paired by problem. Nobody else's
program is beside it: the comparison is the model before. One JSON line a figure.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dunwu.align.baselines.best_of_n import Drawing, Drawn, draw, passes
from dunwu.align.rewards import make_reward
from dunwu.chat.local import LocalChat
from dunwu.core.devices import pick_device, prepare_cpu
from dunwu.core.progress import SilentProgress
from dunwu.core.recipe import PromptFileSource
from dunwu.core.records import Message
from dunwu.core.rewards import reward_specs
from dunwu.corpus.prompts import Prompt, PromptReader
from dunwu.corpus.sums import problems
from dunwu.evaluate.stats import paired_difference

ANSWERS = 8
SEED = 99  # of problems that no part of the recipe draws
GENERATED = {
    "one_step": ((1,), 20),
    "two_steps": ((2,), 20),
    "three_steps": ((3,), 20),
    "larger_numbers": ((1, 2), 99),
}
"""Steps, and the largest number given: the recipe learns one and two steps of numbers to 20."""
REAL = ("AddSub", "MultiArith", "SingleEq")


def problem_sets(count: int, data: Path | None) -> Iterator[tuple[str, list[Prompt]]]:
    """Names and problems."""
    for name, (steps, largest) in GENERATED.items():
        found = problems(SEED, count, ("en",), held_out=True, steps=steps, largest=largest)
        yield name, [_asked(one.question, one.answer) for one in found]
    if data is None:
        return
    for name in REAL:
        source = PromptFileSource(path=str(data / "eval_cot_suite" / f"{name}.json.gz"), cap=count)
        yield name, list(PromptReader(source))


def answered(folder: Path, prompts: Sequence[Prompt]) -> list[Drawn]:
    """Each problem with its answers, by the model of a stage."""
    how = Drawing(n=ANSWERS, max_tokens=64, seed=SEED)
    return list(draw(LocalChat.load(folder), prompts, make_reward(reward_specs(["math"])), how, SilentProgress()))


def figures(name: str, before: Sequence[Drawn], after: Sequence[Drawn]) -> Iterator[Mapping[str, Any]]:
    """pass@1 and pass@8 of both, and the change."""
    for when, drawn in (("sft", before), ("rl", after)):
        found = passes(drawn, "math")
        assert found is not None
        for k in (1, ANSWERS):
            value = {"value": found[k].value, "low": found[k].low, "high": found[k].high, "n": found[k].n}
            ended = sum(one.finish_reason == "stop" for each in drawn for one in each.completions)
            yield {
                "figure": f"word_problems_{name}_pass@{k}_{when}",
                **value,
                "unit": "share",
                "ended": ended / (len(drawn) * ANSWERS),
            }
    shares_before, shares_after = ([sum(one.totals) / ANSWERS for one in drawn] for drawn in (before, after))
    change = paired_difference(shares_before, shares_after)
    yield {"figure": f"word_problems_{name}_pass@1_change", **change._asdict(), "unit": "share"}


def _asked(question: str, answer: int) -> Prompt:
    return Prompt((Message(role="user", content=question),), {"answer": answer}, "generated")


def _stage(home: Path, name: str) -> Path:
    found = [folder for folder in home.glob(f"stages/{name}-*") if (folder / "stage.json").is_file()]
    if not found:
        raise SystemExit(f"{home} has no finished stage {name}; run `dunwu build word_problems` to its end")
    return max(found, key=lambda folder: (folder / "stage.json").stat().st_mtime)


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--problems", type=int, default=100, help="of each set")
    parser.add_argument("--only", default="", help="sets whose name has this")
    arguments = parser.parse_args()
    prepare_cpu()
    before, after = (_stage(arguments.home, name) for name in ("sft", "rl"))
    for name, prompts in problem_sets(arguments.problems, arguments.data):
        if arguments.only in name:
            for figure in figures(name, answered(before, prompts), answered(after, prompts)):
                print(json.dumps({**figure, "device": pick_device().type, "answers": ANSWERS}), flush=True)


if __name__ == "__main__":
    main()
