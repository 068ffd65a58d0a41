"""A reward model on real preferences, beside chance and beside a logistic regression on words.

    python benchmarks/reward_hh.py --pairs FOLDER --texts FOLDER [FOLDER ...]   # about 15 minutes on two cores
    python benchmarks/reward_hh.py --pairs FOLDER --model HOME                  # with a model that is there

`--pairs`: HH-RLHF's files (chosen and rejected transcripts, arXiv:2204.05862). Prompts are split by what they say, a fifth for
the test. The reward model begins from a model that was pre-trained on `--texts` with a budget of `--budget`, a few million
parameters that read for minutes: what comes out says what such a model can do, not what reward models can. Where a dialogue
is longer than its context, only the last question is its prompt. The regression sees how often each word stands in the chosen
answer more than in the other one (ridge by validation); both are asked about the same test pairs. Beside them: the longer answer,
and the shorter one, always.
"""

import argparse
import contextlib
import hashlib
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from common import print_figure

from dunwu.align.reward.scorer import RewardModelScorer
from dunwu.cli import run
from dunwu.core.recipe import PreferenceSource
from dunwu.core.records import Completion, Message, Preference
from dunwu.corpus.pairs import PreferenceReader
from dunwu.evaluate.scorers.base import Case
from dunwu.evaluate.stats import paired_proportions, wilson
from dunwu.tokenizer.load import load_tokenizer

TEST_SHARE, LEAST_COUNT, ANSWER_TOKENS = 5, 5, 100
Floats = npt.NDArray[np.float64]
Won = list[bool]


def main() -> None:
    """Print one line a figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--texts", type=Path, nargs="*", default=[])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--budget", default="8min")
    parser.add_argument("--tuning", default="5min", help="the budget of one reward model")
    parser.add_argument("--epochs", default="1")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    out = chosen.out or Path(tempfile.mkdtemp(prefix="reward_hh-"))
    model = chosen.model or pretrained(chosen.texts, chosen.budget, out / "english")
    pairs = fitting(list(PreferenceReader(PreferenceSource(path=str(chosen.pairs)))), model)
    train, test = split(pairs)
    words = by_words(train, test)
    lengths = [len(said(one.chosen)) - len(said(one.rejected)) for one in test]
    shown = {"pairs": len(train), "test": len(test)}
    for name, won in (
        ("words", words),
        ("longer", [gap > 0 for gap in lengths]),
        ("shorter", [gap < 0 for gap in lengths]),
    ):
        figure(f"reward_hh_{name}_accuracy", [won], target="beside", **shown)
    runs = [by_model(model, train, test, out, seed, chosen.tuning, chosen.epochs) for seed in range(chosen.seeds)]
    figure(
        "reward_hh_accuracy",
        runs,
        target="> 0.5",
        chance=0.5,
        peer=mean(words),
        peer_name="logistic regression",
        **shown,
    )
    change = paired_proportions(words, runs[0])
    print_figure(
        "reward_hh_over_words", [change.value], unit="share", target="> 0", low=round(change.low, 4),
        high=round(change.high, 4), **shown,
    )  # fmt: skip


def figure(name: str, runs: Sequence[Won], **facts: object) -> None:
    """The share of right pairs of each run, with the interval of the first."""
    low, high = wilson(sum(runs[0]), len(runs[0]))
    target = str(facts.pop("target"))
    shares = [mean(won) for won in runs]
    print_figure(name, shares, unit="share", target=target, low=round(low, 4), high=round(high, 4), **facts)


def mean(won: Won) -> float:
    return round(sum(won) / len(won), 4)


def pretrained(texts: Sequence[Path], budget: str, home: Path) -> Path:
    """A model that read these texts; one that is there already is taken as it is."""
    words = [f"corpus.sources=[{', '.join(f'{{kind: folder, path: {path.absolute()}}}' for path in texts)}]"]
    more = ["sft.sources=[]", "evaluate.baselines=false", "evaluate.samples=0", f"budget={budget}", f"out={home}"]
    quietly(["build", *words, *more])
    return home


def quietly(words: list[str]) -> None:
    """Run a command of dunwu's; what it says goes to standard error, where figures do not."""
    with contextlib.redirect_stdout(sys.stderr):
        if run(words):
            raise SystemExit(f"dunwu {words[0]} did not end well")


def said(side: tuple[Message, ...] | None) -> str:
    return " ".join(message.content for message in side or ())


def fitting(pairs: Sequence[Preference], model: Path) -> list[Preference]:
    """Pairs with prompts that leave room for an answer: of those that do not, the last question, or nothing."""
    folder = model / "model"
    tokenizer = load_tokenizer(folder)
    context = json.loads((folder / "dunwu.json").read_text())["context_length"]

    def room(messages: Sequence[Message]) -> bool:
        return sum(len(tokenizer.encode(one.content)) + 5 for one in messages) <= context - ANSWER_TOKENS

    short = [one if room(one.prompt) else Preference(
        prompt=one.prompt[-1:], chosen=one.chosen, rejected=one.rejected, source=one.source
    ) for one in pairs]  # fmt: skip
    return [one for one in short if one.prompt[0].role == "user" and room(one.prompt)]


def split(pairs: Sequence[Preference]) -> tuple[list[Preference], list[Preference]]:
    """To learn from, and to test on: by what the prompt says."""

    def tested(one: Preference) -> bool:
        digest = hashlib.sha256(said(one.prompt).encode()).digest()
        return int.from_bytes(digest[:8], "big") % TEST_SHARE == 0

    return [one for one in pairs if not tested(one)], [one for one in pairs if tested(one)]


def by_model(
    model: Path, train: Sequence[Preference], test: Sequence[Preference], out: Path, seed: int, tuning: str, epochs: str
) -> Won:
    """Whether a reward model scores the better answer of each pair higher."""
    file = out / "train.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(json.dumps(row(one)) for one in train))
    home = out / f"reward-{seed}"
    words = [str(model / "model"), str(file), "--method", "reward", "--delta", "full"]
    quietly(["align", *words, f"seed={seed}", f"budget={tuning}", f"reward.epochs={epochs}", f"out={home}"])
    scorer = RewardModelScorer.load(home)
    sides = [[case(one, side) for one in test] for side in ("chosen", "rejected")]
    better, worse = (scorer(cases) for cases in sides)
    return [a > b for a, b in zip(better, worse, strict=True)]


def row(one: Preference) -> dict[str, object]:
    prompt = [{"role": message.role, "content": message.content} for message in one.prompt]
    answers = {side: [{"role": "assistant", "content": said(getattr(one, side))}] for side in ("chosen", "rejected")}
    return {"prompt": prompt, **answers}


def case(one: Preference, side: str) -> Case:
    completion = Completion(text=said(getattr(one, side)), ids=(), finish_reason="stop")
    return Case(prompt=one.prompt, completion=completion, columns={})


def by_words(train: Sequence[Preference], test: Sequence[Preference]) -> Won:
    """The same by logistic regression on differences of word counts."""
    counts = Counter(word for one in train for side in (one.chosen, one.rejected) for word in set(words_of(said(side))))
    place = {word: number for number, word in enumerate(word for word, n in counts.items() if n >= LEAST_COUNT)}

    def features(pairs: Sequence[Preference]) -> Floats:
        found = np.zeros((len(pairs), len(place)))
        for number, one in enumerate(pairs):
            for side, sign in ((one.chosen, 1.0), (one.rejected, -1.0)):
                for word in words_of(said(side)):
                    if word in place:
                        found[number, place[word]] += sign
        return found

    known, asked = features(train), features(test)
    part = np.arange(len(known)) % 5 == 0
    ridge = max(
        (0.3, 1.0, 3.0, 10.0, 30.0, 100.0), key=lambda r: (known[part] @ regression(known[~part], r) > 0).mean()
    )
    return [bool(score > 0) for score in asked @ regression(known, ridge)]


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def regression(known: Floats, ridge: float) -> Floats:
    """The weights at which every difference is most likely positive, by Newton's method; without a constant, as either side
    may stand first."""
    weights = np.zeros(known.shape[1])
    for _ in range(20):
        chance = 1 / (1 + np.exp(-np.clip(known @ weights, -30, 30)))
        slope = known.T @ (chance - 1) + ridge * weights
        curve = (known.T * (chance * (1 - chance))) @ known + ridge * np.eye(len(weights))
        step = np.linalg.solve(curve, slope)
        weights -= step
        if np.abs(step).max() < 1e-6:
            break
    return weights


if __name__ == "__main__":
    main()
