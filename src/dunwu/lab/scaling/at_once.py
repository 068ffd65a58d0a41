"""A law and its bootstrap all at once, from a start that is known to be near: for simulations, which fit thousands.

Huber's loss by weighted least squares, again and again, with Levenberg's damping; a draw counts how often each run is in it.

Shapes: `S` fits side by side, the first to the runs as they are; `R` runs; a fit is `[5]`, as in `parametric.py`.
"""

# ruff: noqa: N815 (shape suffixes of fields are upper case)

from dataclasses import dataclass

import numpy as np

from dunwu.lab.scaling.parametric import DELTA, PARAMETERS, End, Law, law_at
from dunwu.lab.scaling.points import Floats, Points

MOST_STEPS = 200


def law_and_draws(
    points: Points, near: Law, *, resamples: int, seed: int = 0, steps: int = MOST_STEPS
) -> tuple[Law, tuple[Law, ...]]:
    """The law of all runs, and of `resamples` draws from them; draws in which loss does not fall with both are left out."""
    problem = _Problems.of(points, resamples, seed)
    start = [
        np.log(near.A) - near.alpha * problem.middle[0],
        np.log(near.B) - near.beta * problem.middle[1],
        np.log(near.E),
        near.alpha,
        near.beta,
    ]
    x_S5, value_S = problem.descend(np.tile(start, (resamples + 1, 1)), steps)
    x_S5[:, 0] += x_S5[:, 3] * problem.middle[0]
    x_S5[:, 1] += x_S5[:, 4] * problem.middle[1]
    best, *drawn = (law_at(End(x, float(value))) for x, value in zip(x_S5, value_S, strict=True))
    return best, tuple(law for law in drawn if law.sound)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Problems:
    """Runs in logarithms, size and tokens from their `middle`, and how often each is in each fit."""

    size_R: Floats
    tokens_R: Floats
    loss_R: Floats
    counts_SR: Floats
    middle: tuple[float, float]

    @classmethod
    def of(cls, points: Points, resamples: int, seed: int) -> "_Problems":
        """The runs as they are, and draws from them."""
        count, random = len(points), np.random.default_rng(seed)
        counts_SR = np.ones((resamples + 1, count))
        for row in range(1, resamples + 1):
            counts_SR[row] = np.bincount(random.integers(0, count, count), minlength=count)
        size_R, tokens_R = np.log(points.size_R), np.log(points.tokens_R)
        middle = float(size_R.mean()), float(tokens_R.mean())
        return cls(
            size_R=size_R - middle[0],
            tokens_R=tokens_R - middle[1],
            loss_R=np.log(points.loss_R),
            counts_SR=counts_SR,
            middle=middle,
        )

    def descend(self, x_S5: Floats, steps: int) -> tuple[Floats, Floats]:
        """Where `steps` steps lead, and the sums of Huber losses there."""
        damping_S = np.full(len(x_S5), 1e-3)
        off_SR, shares_S3R, value_S = self._at(x_S5)
        for _ in range(steps):
            tried_S5 = x_S5 - self._step(off_SR, shares_S3R, damping_S)
            off, shares, value = self._at(tried_S5)
            better = value <= value_S
            for kept, tried in ((x_S5, tried_S5), (off_SR, off), (shares_S3R, shares), (value_S, value)):
                kept[better] = tried[better]
            damping_S = np.clip(np.where(better, damping_S / 3, damping_S * 4), 1e-9, 1e9)
        return x_S5, value_S

    def _at(self, x_S5: Floats) -> tuple[Floats, Floats, Floats]:
        """Residuals of log loss, the shares of the three terms in it, and the sum of Huber losses."""
        parts_S3R = np.stack(
            [
                x_S5[:, :1] - x_S5[:, 3:4] * self.size_R,
                x_S5[:, 1:2] - x_S5[:, 4:5] * self.tokens_R,
                np.repeat(x_S5[:, 2:3], len(self.loss_R), 1),
            ],
            1,
        )
        with np.errstate(over="ignore", invalid="ignore"):
            total_SR = np.logaddexp.reduce(parts_S3R, axis=1)
            off_SR = total_SR - self.loss_R
            far_SR = np.abs(off_SR)
            huber_SR = np.where(far_SR <= DELTA, 0.5 * off_SR**2, DELTA * (far_SR - 0.5 * DELTA))
            return off_SR, np.exp(parts_S3R - total_SR[:, None]), (self.counts_SR * huber_SR).sum(1)

    def _step(self, off_SR: Floats, shares_S3R: Floats, damping_S: Floats) -> Floats:
        """The damped step of weighted least squares, `[S, 5]`."""
        slope_SR5 = np.stack(
            [
                *shares_S3R.swapaxes(0, 1),
                -shares_S3R[:, 0] * self.size_R,
                -shares_S3R[:, 1] * self.tokens_R,
            ],
            -1,
        )
        weight_SR = self.counts_SR * np.minimum(1.0, DELTA / np.maximum(np.abs(off_SR), 1e-12))
        bend_S55 = np.einsum("srp,sr,srq->spq", slope_SR5, weight_SR, slope_SR5)
        slope_S5 = np.einsum("srp,sr->sp", slope_SR5, weight_SR * off_SR)
        scale_S5 = damping_S[:, None] * np.einsum("spp->sp", bend_S55) + 1e-12
        damped_S55 = bend_S55 + np.eye(PARAMETERS) * scale_S5[:, None, :]
        return np.linalg.solve(damped_S55, slope_S5[..., None])[..., 0]
