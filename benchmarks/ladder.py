"""How well a ladder of small trainings foretells: four targets on real books, the best size for a budget, and one learning rate for all.

    python benchmarks/ladder.py DATA --work FOLDER > ladder.jsonl          # about 25 minutes on two cores with nothing else running
    python benchmarks/ladder.py DATA --work FOLDER --only en-128 rate      # in pieces

DATA holds `en_classic_books` (JSON Lines, gzip) and `zh_classic_novels` (text, gzip). All that is finished lies in FOLDER and is not
done again: the same command goes on where it was stopped. Each target is forecast by rungs of at most 1/30 of its compute before it is
trained, and then trained and scored on the same held-out text. The best size is that of a parabola through five sizes of equal
compute, in logarithms. Nobody else's program is beside it: the comparison is what was measured afterwards. One JSON line a figure.
"""

import argparse
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import print_figure

from dunwu.build.home import Home
from dunwu.build.ladder import Wish, climb, climbing, family_of, train_each
from dunwu.core.progress import TerminalProgress
from dunwu.core.recipe import Recipe
from dunwu.lab.ladder.answer import Oracle
from dunwu.lab.ladder.forecast import answer, oracle_of
from dunwu.lab.ladder.plan import LARGEST, LEVELS, Ladder, Rung, Shape

CONTEXT, VOCAB, BATCH_ROWS = 128, 2048, 16
FLOPS = 1.2e13  # of each target
TARGETS = {"en-128": ("en", 128), "en-96": ("en", 96), "zh-112": ("zh", 112), "zh-96": ("zh", 96)}  # corpus, width
SWEEP_FLOPS, SWEPT = 3e12, (32, 48, 64, 80, 96)
RATES, WIDTHS, RATE_TOKENS = (0.25, 0.5, 1.0, 2.0, 4.0), (32, 64, 128), 120_000


def recipe_of(corpus: str, data: Path) -> Recipe:
    """The same for both languages, but for the text."""
    sources = {
        "en": {"kind": "folder", "path": str(data / "en_classic_books"), "include": ["*.jsonl.gz"]},
        "zh": {"kind": "folder", "path": str(data / "zh_classic_novels"), "include": ["*.txt.gz"]},
    }
    return Recipe.model_validate(
        {
            "name": corpus,
            "budget": "10min",
            "corpus": {"sources": [sources[corpus]]},
            "tokenizer": {"vocab_size": VOCAB},
            "model": {"context_length": CONTEXT},
            "evaluate": {"heldout_bytes": 150_000},
        }
    )


class Bench:
    """Recipes and homes of both corpora."""

    def __init__(self, data: Path, work: Path) -> None:
        self.data, self.work = data, work
        self.recipes = {corpus: recipe_of(corpus, data) for corpus in ("en", "zh")}
        self.family = family_of(self.recipes["en"].model, VOCAB, CONTEXT)
        self.progress = TerminalProgress()

    def home(self, corpus: str) -> Home:
        """Of a corpus."""
        return Home(self.work / corpus)

    def shape(self, width: int) -> Shape:
        """Of that width."""
        return next(shape for shape in self.family.shapes if shape.hidden_size == width)

    def ladder(self, corpus: str, width: int, flops: float) -> tuple[Ladder, Oracle]:
        """Climbed for a model of that width and so much compute."""
        size, home = self.shape(width).parameters, self.home(corpus)
        with climbing(home):
            ladder, _ = climb(
                self.recipes[corpus], home, Wish(size=size, flops=flops), self.progress, largest=LARGEST, levels=LEVELS
            )
        return ladder, oracle_of(ladder, seed=0)

    def train(self, corpus: str, rung: Rung, lr_scale: float = 1.0) -> Any:
        """One model."""
        home = self.home(corpus)
        with climbing(home):
            (result,) = train_each(
                self.recipes[corpus], home, [rung], self.progress, context_length=CONTEXT, lr_scale=lr_scale
            )
        return result


def rung(shape: Shape, tokens: float, rows: int = BATCH_ROWS) -> Rung:
    """A training in whole batches."""
    return Rung(shape=shape, tokens=round(tokens / rows / CONTEXT) * rows * CONTEXT, batch_rows=rows, seed=0)


def target(bench: Bench, name: str) -> None:
    """Forecast, train, compare."""
    corpus, width = TARGETS[name]
    shape = bench.shape(width)
    ladder, oracle = bench.ladder(corpus, width, FLOPS)
    said = answer(ladder, oracle)
    result = bench.train(corpus, rung(shape, FLOPS / shape.flops_per_token))
    print_figure(
        f"ladder_loss_error_{name}",
        [abs(result.loss / said.loss.value - 1)],
        unit="share",
        target="<=0.02",
        foretold=said.loss.value,
        low=said.loss.low,
        high=said.loss.high,
        inside=said.loss.holds(result.loss),
        measured=result.loss,
        measured_bits_per_byte=result.bits_per_byte,
        parameters=result.parameters,
        tokens=result.tokens,
        rungs=len(ladder.rungs),
        largest_rung_share=max(one.flops for one in ladder.rungs) / FLOPS,
        ladder_share=sum(one.flops for one in ladder.rungs) / FLOPS,
        foretold_seconds=said.seconds.value,
        measured_seconds=result.seconds,
    )


def best_size(bench: Bench) -> None:
    """Foretold by the ladder of the first target, measured by five sizes of equal compute."""
    _, oracle = bench.ladder("en", 128, FLOPS)
    split = oracle.best_split(SWEEP_FLOPS)
    results = []
    for width in SWEPT:
        shape = bench.shape(width)
        results.append(bench.train("en", rung(shape, SWEEP_FLOPS / shape.flops_per_token)))
    sizes, losses = np.log([one.parameters for one in results]), np.array([one.loss for one in results])
    bend, slope, _ = np.polyfit(sizes, losses, 2)
    within = bool(bend > 0 and sizes[0] < -slope / 2 / bend < sizes[-1])
    measured = math.exp(-slope / 2 / bend) if within else float(results[int(losses.argmin())].parameters)
    ratio = split.size.value / measured
    print_figure(
        "ladder_best_size_ratio",
        [max(ratio, 1 / ratio)],
        target="<=1.5",
        foretold=split.size.value,
        low=split.size.low,
        high=split.size.high,
        measured=measured,
        optimum_within_the_sweep=within,
        flops=SWEEP_FLOPS,
        sweep={str(one.parameters): one.loss for one in results},
    )


def rate(bench: Bench) -> None:
    """The house's rates times five factors, at three widths: what the best factor would gain over 1."""
    table: dict[str, Mapping[str, float]] = {}
    for width in WIDTHS:
        runs = {factor: bench.train("en", rung(bench.shape(width), RATE_TOKENS, 4), factor).loss for factor in RATES}
        table[str(width)] = {str(factor): loss for factor, loss in runs.items()}
    lost = [own["1.0"] / min(own.values()) - 1 for own in table.values()]
    print_figure(
        "ladder_rate_transfer_loss",
        [max(lost)],
        unit="share",
        target="<=0.02",
        best={width: min(own, key=lambda factor: own[factor]) for width, own in table.items()},
        sweep=table,
    )


def main() -> None:
    pieces: dict[str, Callable[[Bench], None]] = {
        **{name: lambda bench, name=name: target(bench, name) for name in TARGETS},
        "size": best_size,
        "rate": rate,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="where everything that is finished is kept")
    parser.add_argument("--only", nargs="+", choices=list(pieces), default=list(pieces))
    options = parser.parse_args()
    os.environ.setdefault("XDG_CACHE_HOME", str(options.work / "cache"))
    bench = Bench(options.data, options.work)
    for name in options.only:
        pieces[name](bench)


if __name__ == "__main__":
    main()
