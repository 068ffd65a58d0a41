"""How far a reward model's scores can be trusted, on judgements that were kept from it, with intervals.

Shapes: `P` pairs, `N` steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dunwu.core.records import Score
from dunwu.evaluate.stats import ratio_interval, wilson

Floats = npt.NDArray[np.float64]
BINS = 5  # of predicted probabilities, from 0.5 to 1
RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class ScoredPairs:
    """Pairs that one side won: scores of the better and of the worse answer, and their lengths in tokens, all `[P]`."""

    chosen: Floats
    rejected: Floats
    chosen_length: Floats
    rejected_length: Floats

    def take(self, places: npt.NDArray[Any]) -> "ScoredPairs":
        """Some of them."""
        return ScoredPairs(
            chosen=self.chosen[places],
            rejected=self.rejected[places],
            chosen_length=self.chosen_length[places],
            rejected_length=self.rejected_length[places],
        )

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether the better answer has the higher score. Equal scores are no answer, and count as wrong."""
        return self.chosen > self.rejected


def pair_measures(pairs: ScoredPairs, *, tie_threshold: float = 0.0, seed: int = 0) -> dict[str, Any]:
    """Facts; empty without pairs. `scores`: `accuracy`, and the same where the better answer is longer, shorter, or as long;
    `calibration_error`; `length_correlation`, of scores and lengths over all answers (Pearson). Where a score does not exist it
    is left out. `calibration`: see `calibration_curve`. `log_loss`: nats a pair; log 2 is chance. `mean` and `deviation` of the
    scores of better and of worse answers."""
    if not len(pairs.chosen):
        return {}
    longer, shorter = pairs.chosen_length > pairs.rejected_length, pairs.chosen_length < pairs.rejected_length
    subsets = {
        "accuracy": np.ones(len(longer), bool),
        "accuracy_chosen_longer": longer,
        "accuracy_chosen_shorter": shorter,
        "accuracy_as_long": ~longer & ~shorter,
    }
    scores = {name: asdict(_share(name, pairs.right[part])) for name, part in subsets.items() if part.any()}
    probability = win_probability(pairs.chosen - pairs.rejected, tie_threshold)
    error = lambda some: calibration_error(probability[some], pairs.right[some])  # noqa: E731
    scores["calibration_error"] = asdict(_resampled("calibration_error", error, len(longer), "share", seed))
    correlation = _resampled(
        "length_correlation", lambda some: _length_correlation(pairs.take(some)), len(longer), "correlation", seed
    )
    if np.isfinite([correlation.value, correlation.low, correlation.high]).all():
        scores["length_correlation"] = asdict(correlation)
    return {
        "pairs": len(longer),
        "scores": scores,
        "calibration": calibration_curve(probability, pairs.right),
        "log_loss": float(-np.log(np.maximum(probability, 1e-300)).mean()),
        "mean": {"chosen": float(pairs.chosen.mean()), "rejected": float(pairs.rejected.mean())},
        "deviation": {"chosen": float(pairs.chosen.std()), "rejected": float(pairs.rejected.std())},
    }


def win_probability(difference: Floats, tie_threshold: float) -> Floats:
    """With what probability the first answer is the better one, given that it is no tie."""
    win, loss = (_sigmoid(sign * difference - tie_threshold) for sign in (1.0, -1.0))
    return win / (win + loss)


def _sigmoid(values: Floats) -> Floats:
    return np.exp(-np.logaddexp(0.0, -values))


def calibration_curve(probability: Floats, right: npt.NDArray[np.bool_]) -> list[dict[str, float]]:
    """How often the answer that is predicted to be better is so, by how sure the prediction is: bins of `BINS` from 0.5 to 1,
    those with pairs. Each: `predicted` (the mean in it), `share` with `low` and `high` (Wilson, 95%), and `n`."""
    sure = np.maximum(probability, 1.0 - probability)
    bins = np.minimum(((sure - 0.5) * 2 * BINS).astype(int), BINS - 1)
    rows: list[dict[str, float]] = []
    for number in range(BINS):
        inside = bins == number
        count, won = int(inside.sum()), int(right[inside].sum())
        if count:
            low, high = wilson(won, count)
            predicted = float(sure[inside].mean())
            rows.append({"predicted": predicted, "share": won / count, "low": low, "high": high, "n": count})
    return rows


def calibration_error(probability: Floats, right: npt.NDArray[np.bool_]) -> float:
    """The expected calibration error: the mean distance of share and prediction, each bin by its pairs (arXiv:1706.04599)."""
    rows = calibration_curve(probability, right)
    return sum(row["n"] * abs(row["share"] - row["predicted"]) for row in rows) / max(1, len(right))


def _length_correlation(pairs: ScoredPairs) -> float:
    scores, lengths = (
        np.concatenate(both) for both in ((pairs.chosen, pairs.rejected), (pairs.chosen_length, pairs.rejected_length))
    )
    if scores.std() == 0 or lengths.std() == 0:
        return float("nan")
    return float(np.corrcoef(scores, lengths)[0, 1])


@dataclass(frozen=True, kw_only=True)
class ScoredSteps:
    """The scores of an answer's steps and their labels: good (1), bad (0), not judged (NaN); both `[N]`."""

    scores: Floats
    labels: Floats


def step_measures(answers: Sequence[ScoredSteps]) -> dict[str, Any]:
    """Facts; empty without judged steps. `accuracy` over steps that were judged, its interval over answers, whose steps are not
    independent; `first_error`, the share of answers in which the first step with a score below 0 is the first bad
    one, or there is neither (as in arXiv:2412.06559); calibration as of pairs."""
    known = [~np.isnan(one.labels) for one in answers]
    if not sum(int(part.sum()) for part in known):
        return {}
    right = [((one.scores > 0) == (one.labels > 0.5))[part] for one, part in zip(answers, known, strict=True)]
    sums = np.array([part.sum() for part in right], np.float64)
    sizes = np.array([part.size for part in right], np.float64)
    share = ratio_interval(sums, sizes)
    accuracy = Score(name="accuracy", value=share.value, low=share.low, high=share.high, n=share.n, unit="share")
    found = np.array([_first(one.scores < 0) == _first(one.labels < 0.5) for one in answers])
    probability = _sigmoid(np.concatenate([one.scores[part] for one, part in zip(answers, known, strict=True)]))
    good = np.concatenate([one.labels[part] for one, part in zip(answers, known, strict=True)]) > 0.5
    predicted = (probability > 0.5) == good
    return {
        "answers": len(answers),
        "steps": int(sizes.sum()),
        "scores": {
            "accuracy": asdict(accuracy),
            "first_error": asdict(_share("first_error", found, chance=None)),
        },
        "good_steps": float(good.mean()),
        "calibration": calibration_curve(probability, predicted),
        "log_loss": float(-np.log(np.maximum(np.where(good, probability, 1 - probability), 1e-300)).mean()),
    }


def _first(marks: npt.NDArray[np.bool_]) -> int:
    """The place of the first mark; -1 where there is none."""
    places = np.flatnonzero(marks)
    return int(places[0]) if len(places) else -1


def _share(name: str, wins: npt.NDArray[np.bool_], chance: float | None = 0.5) -> Score:
    count, n = int(wins.sum()), len(wins)
    low, high = wilson(count, n)
    return Score(name=name, value=count / n, low=low, high=high, n=n, unit="share", chance=chance)


def _resampled(name: str, measure: Callable[[npt.NDArray[np.int64]], float], n: int, unit: str, seed: int) -> Score:
    """A measure of all, with the 95% interval of resamples (the percentile bootstrap)."""
    generator = np.random.default_rng([seed, 0xB007])
    values = [measure(generator.integers(0, n, n)) for _ in range(RESAMPLES if n > 1 else 0)]
    low, high = np.nanpercentile(values, [2.5, 97.5]) if values and not np.isnan(values).all() else (np.nan, np.nan)
    return Score(name=name, value=float(measure(np.arange(n))), low=float(low), high=float(high), n=n, unit=unit)
