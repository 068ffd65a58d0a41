"""What a method is given of a rollout, and what it says of each token of it. Plain arrays: no model here.

Shapes: `A` answers, `G` prompts, `N` tokens of all answers, one answer after another.
"""

# ruff: noqa: N802, N815 (shape suffixes of fields are upper case)

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Answers with their scores, in the order of their prompts, `count` to each. Log-probabilities, nats, and `value_N`, the
    reward that is expected from before each token on, are of the weights that answered."""

    scores_A: Floats
    count: int
    tokens_A: Ints
    ended_A: Bools
    most_tokens: int
    logprob_N: Floats
    reference_N: Floats | None = None
    value_N: Floats | None = None
    kl_coefficient: float = 0.0

    @property
    def answer_N(self) -> Ints:
        """Whose each token is."""
        return np.repeat(np.arange(len(self.tokens_A)), self.tokens_A)

    @property
    def last_A(self) -> Ints:
        """The place of each answer's last token."""
        return np.cumsum(self.tokens_A) - 1

    def of_groups(self, values_A: Floats) -> Floats:
        """`[G, count]`."""
        return values_A.reshape(-1, self.count)

    def alike_G(self, values_A: Floats) -> Bools:
        """Whose answers all have one value: nothing can be learned from comparing them."""
        groups = self.of_groups(values_A)
        return groups.max(1) == groups.min(1)

    def divergence_N(self) -> Floats:
        """log p - log p of the reference, of each token: what the divergence is estimated by (k1)."""
        return np.zeros_like(self.logprob_N) if self.reference_N is None else self.logprob_N - self.reference_N

    def sums_A(self, values_N: Floats) -> Floats:
        """Of each answer."""
        return np.add.reduceat(values_N, self.last_A - self.tokens_A + 1)

    def rewards_N(self, scores_A: Floats) -> Floats:
        """Each token's reward: what it diverges costs, and the last of an answer brings the score (arXiv:1909.08593 eq. 2)."""
        rewards_N = -self.kl_coefficient * self.divergence_N()
        rewards_N[self.last_A] += scores_A
        return rewards_N

    def to_go_N(self, rewards_N: Floats) -> Floats:
        """The sum of an answer's rewards from each token on."""
        after_N = np.cumsum(rewards_N)
        return rewards_N + after_N[self.last_A][self.answer_N] - after_N


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """`advantage_N`; `used_A`: answers that are learned from; `return_N`: what the value model should have said; `figures`: for
    the step's row."""

    advantage_N: Floats
    used_A: Bools
    return_N: Floats | None = None
    figures: Mapping[str, float] = field(default_factory=dict[str, float])


def normalised(values_N: Floats, weights_N: Floats | None = None) -> Floats:
    """To mean 0 and deviation 1."""
    weights_N = np.ones_like(values_N) if weights_N is None else weights_N
    total = max(weights_N.sum(), 1.0)
    mean = (values_N * weights_N).sum() / total
    variance = (np.square(values_N - mean) * weights_N).sum() / total
    return (values_N - mean) / np.sqrt(variance + 1e-8)


Per = Literal["answer", "token", "constant"]


def loss_weights(tokens_A: Ints, used_A: Bools, per: Per, most_tokens: int) -> tuple[Floats, Ints]:
    """What each token's loss counts, `[N]`, and what the sum of an answer's is divided by, together with the others of a batch,
    `[A]`.

    "answer": the mean of each answer's tokens, then over answers (GRPO). "token": the mean over all tokens (DAPO).
    "constant": the sum over an answer's tokens divided by the most that it may have, then the mean over answers (Dr. GRPO), so that
    length changes no token's weight.
    """
    answer_N = np.repeat(np.arange(len(tokens_A)), tokens_A)
    each_A = {
        "answer": 1.0 / np.maximum(tokens_A, 1),
        "token": np.ones(len(tokens_A)),
        "constant": np.full(len(tokens_A), 1.0 / most_tokens),
    }[per]
    shares_A = tokens_A if per == "token" else np.ones(len(tokens_A), np.int64)
    return (each_A * used_A)[answer_N], shares_A * used_A
