"""Proximal policy optimisation: advantages from a value model. Shapes: `A` answers, `N` tokens, `T` tokens of the longest."""

import numpy as np

from dunwu.align.advantages.annotated import Annotated, Floats, Judged, normalised
from dunwu.core.policy import PpoSpec


def ppo(judged: Judged, spec: PpoSpec) -> Annotated:
    """Generalised advantage estimates of the rewards of all tokens, normalised over them; returns are values plus advantages
    before that.

    Figures: `explained_variance`, the share of the returns' variance that the values knew.
    """
    assert judged.value_N is not None, "the rollout was made without values"
    rewards_N = judged.rewards_N(judged.scores_A)
    advantage_N = generalised_advantages(rewards_N, judged.value_N, judged, gamma=spec.gamma, lam=spec.lam)
    return_N = advantage_N + judged.value_N
    variance = float(return_N.var())
    explained = 1.0 - float((return_N - judged.value_N).var()) / variance if variance > 0 else 0.0
    return Annotated(
        advantage_N=normalised(advantage_N) if spec.normalise else advantage_N,
        used_A=np.ones(len(judged.tokens_A), bool),
        return_N=return_N,
        figures={"explained_variance": explained},
    )


def generalised_advantages(rewards_N: Floats, values_N: Floats, judged: Judged, *, gamma: float, lam: float) -> Floats:
    """`A_t = δ_t + γλ A_{t+1}` with `δ_t = r_t + γ V_{t+1} - V_t`, within each answer; after its last token there is nothing
    (arXiv:1506.02438 eq. 16)."""
    A, T = len(judged.tokens_A), int(judged.tokens_A.max())
    answer_N = judged.answer_N
    place_N = np.arange(len(answer_N)) - (judged.last_A - judged.tokens_A + 1)[answer_N]
    rewards_AT, values_AT = np.zeros((A, T)), np.zeros((A, T + 1))
    rewards_AT[answer_N, place_N], values_AT[answer_N, place_N] = rewards_N, values_N
    advantage_AT, after_A = np.zeros((A, T)), np.zeros(A)
    for place in reversed(range(T)):  # beyond an answer's end all is 0
        delta_A = rewards_AT[:, place] + gamma * values_AT[:, place + 1] - values_AT[:, place]
        after_A = delta_A + gamma * lam * after_A
        advantage_AT[:, place] = after_A
    return advantage_AT[answer_N, place_N]


def steered(coefficient: float, kl: float, spec: PpoSpec, answers: int) -> float:
    """The coefficient after `answers` answers that diverged by `kl` nats in the mean: a controller that is proportional in the
    logarithm (arXiv:1909.08593 section 2.2)."""
    if not spec.kl_target:
        return coefficient
    error = min(max(kl / spec.kl_target - 1.0, -0.2), 0.2)
    return coefficient * (1.0 + error * answers / spec.kl_horizon)
