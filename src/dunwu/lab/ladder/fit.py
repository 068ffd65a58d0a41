"""A law through the rungs of a ladder: L(N, D) = E + S · ((w N^-p + 1/D)^r - 1) / r, whose bend r so few runs cannot tell.

Size and tokens limit each other, as in equation 1.5 of arXiv:2001.08361: what N lacks and what D lacks are added before a power
is taken. r = 0 is its limit, a loss that falls by the same amount with every doubling, which is how small models on little text learn;
a power law with a floor, as large ones follow, has r of about a third. A dozen runs over a narrow range do not tell the bend, and far above
the ladder it matters. So a few bends stand side by side, each is asked to foretell the upper rungs from the lower, and the
forecast is a mean in which those that did well weigh more. For a fixed r, p and w the rest is linear, and solved at once on a
grid; so every fit is the best there is, and needs no starting point.

Shapes: `R` rungs, `G` pairs of p and w, `K` draws.
"""

# ruff: noqa: N815 (shape suffixes are upper case)

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dunwu.core.errors import DataError
from dunwu.core.nulls import with_nulls
from dunwu.lab.scaling.points import Floats
from dunwu.lab.statistics import percentiles

Places = npt.NDArray[np.int64]

BENDS = (-0.1, 0.0, 0.1, 0.2, 0.35)
POWERS = tuple(np.geomspace(0.2, 4.0, 20).tolist())  # p that are tried
SHARES = tuple(
    np.geomspace(0.01, 3.0, 30).tolist()
)  # of what size lacks beside what tokens lack, in the middle of the ladder
NUMBERS = 4  # that are free in a law of a given bend: E, S, p, w
ALIKE = 2.0  # times the least error: up to that a dozen rungs do not tell bends apart, and they count alike
SHARPNESS = 2  # how quickly a bend that foretells worse loses weight: as error to this power
LEAST_NOISE = 0.002  # of log loss between two seeds, where the ladder itself shows less
LEAST_DRIFT = 0.001  # of log loss for each e-fold of compute: no small model tells a large one better
LEAST_LOSS = 1e-3
DRAWS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Trained rungs: parameters, tokens (as fresh ones count), FLOPs, and held-out loss in nats a token, all `[R]`."""

    size_R: Floats
    tokens_R: Floats
    flops_R: Floats
    loss_R: Floats

    def __len__(self) -> int:
        return len(self.loss_R)

    def only(self, chosen_R: Places) -> "Runs":
        """Some of them."""
        return Runs(
            size_R=self.size_R[chosen_R],
            tokens_R=self.tokens_R[chosen_R],
            flops_R=self.flops_R[chosen_R],
            loss_R=self.loss_R[chosen_R],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderLaw:
    """A law: `size` and `tokens` are the middle of the ladder, where what size lacks is `share` of what tokens lack, falling as
    size^-`power`; `level` is the loss where both together are one, `slope` nats a token."""

    bend: float
    level: float
    slope: float
    power: float
    share: float
    size: float
    tokens: float

    def lack(self, size: Floats | float, tokens: Floats | float) -> Floats:
        """What size and tokens lack together."""
        return _lack(np.asarray(size) / self.size, np.asarray(tokens) / self.tokens, self.power, self.share)

    def loss(self, size: Floats | float, tokens: Floats | float) -> Floats:
        """Nats a token of models of `size` parameters after `tokens`; never below nothing, where a law is stretched too far."""
        return np.maximum(self.level + self.slope * _bent(self.lack(size, tokens), self.bend), LEAST_LOSS)


def _lack(size: Floats, tokens: Floats, power: float | Floats, share: float | Floats) -> Floats:
    return share * size**-power + 1.0 / tokens


def _bent(lack: Floats, bend: float) -> Floats:
    """(lack^bend - 1) / bend, whose limit at 0 is the logarithm."""
    return np.log(lack) if bend == 0 else (lack**bend - 1.0) / bend


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How a bend did: `error` of log loss where it foretold upper rungs from lower (root mean square), and its weight."""

    law: LadderLaw
    error: float
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderFit:
    """What the rungs say. `draws`: laws that they might as well have shown; `noise`: of log loss between two runs;
    `drift`: how far foretelling went wrong beyond noise, in log loss for each e-fold of compute above `largest_flops`, the
    highest rung.
    """

    trials: tuple[Trial, ...]
    draws: tuple[LadderLaw, ...]
    noise: float
    drift: float
    largest_flops: float
    seed: int = 0

    def value(self, of: Callable[[LadderLaw], float]) -> float:
        """What the laws say together of a positive figure: the weighted mean of its logarithms."""
        return math.exp(sum(trial.weight * math.log(of(trial.law)) for trial in self.trials if trial.weight > 0))

    def loss(self, size: float, tokens: float, flops: float, confidence: float) -> tuple[float, float, float]:
        """The loss of one training, and its interval: the draws, the noise of its own seed, and the drift so far above the ladder."""
        value = self.value(lambda law: float(law.loss(size, tokens)))
        own = math.hypot(self.noise, self.drift * max(0.0, math.log(flops / self.largest_flops)))
        shaken_K = own * np.random.default_rng(self.seed).standard_normal(len(self.draws))
        logs_K = np.log([float(law.loss(size, tokens)) for law in self.draws]) + shaken_K
        low, high = percentiles(np.exp(logs_K), confidence)
        return value, min(value, low), max(value, high)

    def as_json(self) -> dict[str, Any]:
        """All of it, to be put on record."""
        return {
            "trials": [
                {
                    "law": asdict(trial.law),
                    "error": with_nulls(trial.error),
                    "weight": trial.weight,
                }
                for trial in self.trials
            ],
            "draws": [list(asdict(law).values()) for law in self.draws],
            "noise": self.noise,
            "drift": self.drift,
            "largest_flops": self.largest_flops,
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "LadderFit":
        """The inverse of `as_json`."""
        trials = tuple(
            Trial(
                law=LadderLaw(**one["law"]),
                error=math.inf if one["error"] is None else one["error"],
                weight=one["weight"],
            )
            for one in data["trials"]
        )
        names = LadderLaw.__dataclass_fields__
        draws = tuple(LadderLaw(**dict(zip(names, numbers, strict=True))) for numbers in data["draws"])
        same = {name: data[name] for name in ("noise", "drift", "largest_flops", "seed")}
        return cls(trials=trials, draws=draws, **same)


def fit_ladder(runs: Runs, *, draws: int = DRAWS, seed: int = 0) -> LadderFit:
    """Fit a law of every bend, weigh them by how well they foretell, and draw laws. Raises DataError where the rungs tell no law."""
    _check(runs)
    noise = _noise(runs)
    trials = _trials(runs, noise)
    random = np.random.default_rng(seed)
    drawn: list[LadderLaw] = []
    for trial in trials:
        count = round(trial.weight * draws)
        fitted_R = trial.law.loss(runs.size_R, runs.tokens_R)
        freedom = max(1, len(runs) - NUMBERS)
        left = math.sqrt(float(np.sum(np.log(runs.loss_R / fitted_R) ** 2)) / freedom)
        shaken_RK = fitted_R[:, None] * np.exp(max(noise, left) * random.standard_normal((len(runs), count)))
        drawn += _solve(trial.law.bend, runs, shaken_RK) if count else []
    if len(drawn) < draws / 2:
        raise DataError(
            f"only {len(drawn)} of {draws} draws from the rungs give a law in which loss falls with size and with tokens; "
            "the ladder is too short or too noisy: forecast a larger target, or give more text"
        )
    return LadderFit(
        trials=trials,
        draws=tuple(drawn),
        noise=noise,
        drift=math.sqrt(sum(trial.weight * _drift(_foretold(trial.law.bend, runs), noise) ** 2 for trial in trials)),
        largest_flops=float(runs.flops_R.max()),
        seed=seed,
    )


def _check(runs: Runs) -> None:
    if len(runs) <= NUMBERS:
        raise DataError(f"{len(runs)} rungs cannot tell how loss changes with size and tokens; more than {NUMBERS} do")
    if not np.isfinite(runs.loss_R).all() or (runs.loss_R <= 0).any():
        raise DataError(
            "a rung of the ladder has no finite loss; look at its metrics, and lower pretrain.lr_* if it diverged"
        )
    for values_R, what in ((runs.size_R, "size"), (runs.tokens_R, "number of tokens")):
        if len(np.unique(np.round(np.log(values_R), 2))) < 2:
            raise DataError(f"all rungs have one {what} ({values_R[0]:.3g}): nothing tells how loss changes with it")


def _solve(bend: float, runs: Runs, loss_RK: Floats) -> list[LadderLaw]:
    """The best law of that bend for each column of losses; columns that none fits are left out. Least squares of relative residuals."""
    size, tokens = _middle(runs.size_R), _middle(runs.tokens_R)
    pairs_G2 = np.array([(power, share) for power in POWERS for share in SHARES])
    lack_GR = _lack(runs.size_R / size, runs.tokens_R / tokens, pairs_G2[:, :1], pairs_G2[:, 1:])
    basis_GR2 = np.stack([np.ones_like(lack_GR), _bent(lack_GR, bend)], -1) / runs.loss_R[None, :, None]
    wanted_RK = loss_RK / runs.loss_R[:, None]
    numbers_G2K = np.linalg.pinv(basis_GR2) @ wanted_RK
    rest_GK = ((basis_GR2 @ numbers_G2K - wanted_RK) ** 2).sum(1)
    rest_GK[numbers_G2K[:, 1] <= 0] = np.inf
    laws: list[LadderLaw] = []
    for draw, at in enumerate(rest_GK.argmin(0).tolist()):
        if np.isfinite(rest_GK[at, draw]):
            (power, share), (level, slope) = pairs_G2[at].tolist(), numbers_G2K[at, :, draw].tolist()
            laws.append(
                LadderLaw(bend=bend, level=level, slope=slope, power=power, share=share, size=size, tokens=tokens)
            )
    return laws


def _middle(values_R: Floats) -> float:
    return float(np.exp(np.log(values_R).mean()))


def _noise(runs: Runs) -> float:
    """Of log loss between runs that differ in their seed alone: pooled standard deviation."""
    same: dict[tuple[float, float], list[float]] = {}
    for size, tokens, loss in zip(runs.size_R.tolist(), runs.tokens_R.tolist(), runs.loss_R.tolist(), strict=True):
        same.setdefault((size, tokens), []).append(math.log(loss))
    groups = [np.array(one) for one in same.values() if len(one) > 1]
    squares = sum(float(((one - one.mean()) ** 2).sum()) for one in groups)
    freedom = sum(len(one) - 1 for one in groups)
    return max(LEAST_NOISE, math.sqrt(squares / freedom)) if freedom else LEAST_NOISE


def _splits(runs: Runs) -> list[tuple[Places, Places]]:
    """The lower rungs and those above them, cut at each level of compute that leaves enough below."""
    levels_R = np.round(2 * np.log2(runs.flops_R)) / 2
    cuts = np.unique(levels_R)[:-1]
    halves = [(_places(levels_R <= cut), _places(levels_R > cut)) for cut in cuts]
    return [(low, high) for low, high in halves if len(low) > NUMBERS]


def _foretold(bend: float, runs: Runs) -> Floats:
    """Log of foretold over measured loss, with how far above the rungs each was: `[H, 2]`."""
    rows: list[tuple[float, float]] = []
    for low, high in _splits(runs):
        below, above = runs.only(low), runs.only(high)
        laws = _solve(bend, below, below.loss_R[:, None])
        if not laws:
            continue
        gone_H = np.log(laws[0].loss(above.size_R, above.tokens_R) / above.loss_R)
        farther_H = np.log(above.flops_R / below.flops_R.max())
        rows += zip(gone_H.tolist(), farther_H.tolist(), strict=True)
    return np.array(rows).reshape(-1, 2)


def _places(chosen_R: npt.NDArray[np.bool_]) -> Places:
    return np.flatnonzero(chosen_R).astype(np.int64)


def _trials(runs: Runs, noise: float) -> tuple[Trial, ...]:
    """Every bend that fits, weighed by how well it foretold; alike, where there were too few levels to foretell anything."""
    rows: list[tuple[LadderLaw, float]] = []
    for bend in BENDS:
        laws = _solve(bend, runs, runs.loss_R[:, None])
        if laws:
            gone_H = _foretold(bend, runs)[:, 0]
            rows.append((laws[0], math.sqrt(float(np.mean(gone_H**2))) if len(gone_H) else math.inf))
    if not rows:
        raise DataError(
            "no law in which loss falls with size and with tokens fits the rungs; look at their losses: one may have diverged"
        )
    alike = max(noise, ALIKE * min(error for _, error in rows))
    told = [max(error, alike) ** -SHARPNESS if math.isfinite(error) else 0.0 for _, error in rows]
    weights = [one / sum(told) for one in told] if any(told) else [1 / len(rows)] * len(rows)
    return tuple(Trial(law=law, error=error, weight=weight) for (law, error), weight in zip(rows, weights, strict=True))


def _drift(told_H2: Floats, noise: float) -> float:
    """Of log loss for each e-fold of compute: what foretelling missed beyond the noise of two runs."""
    if not len(told_H2):
        return LEAST_DRIFT
    beyond_H = np.maximum(0.0, told_H2[:, 0] ** 2 - 2 * noise**2) / told_H2[:, 1] ** 2
    return max(LEAST_DRIFT, math.sqrt(float(beyond_H.mean())))
