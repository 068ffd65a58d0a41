"""From a law to what a person asks: how good, how large, how long, at what price; what more would give, and where repeats stop paying.

Shapes: `S` sizes that are tried, `K` draws of the law.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dunwu.lab.ladder.fit import LadderFit
from dunwu.lab.ladder.plan import Family
from dunwu.lab.ladder.repeats import worth
from dunwu.lab.scaling.points import Floats
from dunwu.lab.statistics import percentiles

TRIED = 240  # sizes, from the smallest shape's half to a thousand times the target's
MORE = 10.0  # times the data, or the compute
SLACK = 1.25  # either way, of a time: what else the machine does, and what larger products gain or lose


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value between two limits that hold it with the confidence that was asked for."""

    value: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether it lies between them."""
        return self.low <= value <= self.high

    def times(self, factor: float) -> "Interval":
        """In another unit."""
        return Interval(value=self.value * factor, low=self.low * factor, high=self.high * factor)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What training takes on this machine: seconds a FLOP, and for each step."""

    flop_s: Interval
    step_s: float

    def seconds(self, flops: float, tokens: float, batch_tokens: int) -> Interval:
        """Of a training."""
        steps_s = self.step_s * tokens / batch_tokens
        return Interval(
            value=self.flop_s.value * flops + steps_s,
            low=(self.flop_s.low * flops + steps_s) / SLACK,
            high=(self.flop_s.high * flops + steps_s) * SLACK,
        )


@dataclass(frozen=True, kw_only=True)
class Split:
    """How so much compute is best spent, and what that gives (nats a token)."""

    flops: float
    size: Interval
    tokens: Interval
    loss: Interval


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """Answers from a fitted ladder. `fresh`: tokens of the corpus; what is read beyond them counts for less."""

    fit: LadderFit
    family: Family
    fresh: float
    confidence: float

    def loss(self, size: float, tokens: float) -> Interval:
        """Nats a token of held-out text, of one training."""
        flops = tokens * self.family.flops_per_token(size)
        value, low, high = self.fit.loss(size, float(worth(tokens, self.fresh)), flops, self.confidence)
        return Interval(value=value, low=low, high=high)

    def best_split(self, flops: float) -> Split:
        """Size and tokens that give the least loss for so much compute, repeats and all."""
        smallest = self.family.shapes[0].parameters / 2
        size_S = np.geomspace(smallest, 1e3 * max(smallest, (flops / 60) ** 0.5), TRIED)
        tokens_S = flops / np.array([self.family.flops_per_token(size) for size in size_S.tolist()])
        worth_S = worth(tokens_S, self.fresh)

        def best(loss_S: Floats) -> float:
            return float(size_S[int(loss_S.argmin())])

        together_S = sum(
            trial.weight * np.log(trial.law.loss(size_S, worth_S)) for trial in self.fit.trials if trial.weight > 0
        )
        size = best(np.asarray(together_S))
        low, high = percentiles(np.array([best(law.loss(size_S, worth_S)) for law in self.fit.draws]), self.confidence)
        sizes = Interval(value=size, low=min(size, low), high=max(size, high))
        tokens = [flops / self.family.flops_per_token(one) for one in (sizes.value, sizes.high, sizes.low)]
        return Split(
            flops=flops,
            size=sizes,
            tokens=Interval(value=tokens[0], low=tokens[1], high=tokens[2]),
            loss=self.loss(size, tokens[0]),
        )

    def worth_repeating(self, size: float) -> float:
        """Passes over the corpus after which ten times as many would lower the loss by less than two seeds differ."""
        for passes in np.geomspace(1.0, 1000.0, 200).tolist():
            now, later = (self.loss_alone(size, passes * factor * self.fresh) for factor in (1.0, MORE))
            if math.log(now / later) < self.fit.noise:
                return passes
        return math.inf

    def loss_alone(self, size: float, tokens: float) -> float:
        """The loss without its interval."""
        counted = float(worth(tokens, self.fresh))
        return self.fit.value(lambda law: float(law.loss(size, counted)))


def measure_pace(flops: Sequence[float], steps: Sequence[int], seconds: Sequence[float]) -> Pace:
    """From what rungs took: least squares of relative errors, neither figure below nothing; limits from leaving rungs out."""
    flops_R, steps_R, seconds_R = (np.asarray(values, np.float64) for values in (flops, steps, seconds))
    whole = _pace(flops_R, steps_R, seconds_R)
    parts = [
        _pace(*(np.delete(values, at) for values in (flops_R, steps_R, seconds_R)))[0] for at in range(len(flops_R))
    ]
    alone = float((seconds_R / flops_R)[int(flops_R.argmax())])
    return Pace(
        flop_s=Interval(value=whole[0], low=min(whole[0], *parts), high=max(whole[0], alone, *parts)),
        step_s=whole[1],
    )


def _pace(flops_R: Floats, steps_R: Floats, seconds_R: Floats) -> tuple[float, float]:
    columns_RP = np.stack([flops_R, steps_R], 1) / seconds_R[:, None]
    ones_R = np.ones(len(seconds_R))
    scale_P = columns_RP.max(0)
    both = np.linalg.lstsq(columns_RP / scale_P, ones_R, rcond=None)[0] / scale_P
    if (both > 0).all():
        return float(both[0]), float(both[1])
    alone_R = columns_RP[:, 0]
    return float(alone_R @ ones_R / (alone_R @ alone_R)), 0.0
