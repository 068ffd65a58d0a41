"""Groups without variance: where all answers to a prompt score alike, none is better than another, and nothing is learned."""

from statistics import fmean

from dunwu.align.doctor.finding import DoctorConfig, Finding, Severity
from dunwu.align.doctor.history import History
from dunwu.align.doctor.keys import ANSWERS, REWARDS, SOURCES, TEMPERATURE
from dunwu.align.doctor.rules.common import HALF, WHOLE, level

NOTED, WARNED, DEAD = 0.6, 0.85, 0.98  # shares of prompts
EASY, HARD = 0.8, 0.2  # of the range of rewards
LOST_STEPS = 2 * WHOLE  # without a difference to learn from


def no_variance(history: History, config: DoctorConfig) -> Finding | None:
    """Noted from 60% of the prompts on, a warning from 85%; lost after 32 steps of practically all, unless all are right."""
    dead, reward = history.of("groups_without_variance"), history.of("reward")
    if min(len(dead), len(reward)) < HALF:
        return None
    share = fmean(dead.last(HALF))
    if share < NOTED:
        return None
    right = level(history, config, reward.last(HALF))
    severity: Severity = "warning" if share >= WARNED else "note"
    if len(dead) >= LOST_STEPS and min(dead.last(LOST_STEPS)) >= DEAD and (right is None or right < EASY):
        severity = "lost"
    bar = {"note": NOTED, "warning": WARNED, "lost": DEAD}[severity]
    return Finding(
        "groups without variance", dead.since(lambda value: value >= bar), severity, *_words(share, right, history)
    )


def _words(share: float, right: float | None, history: History) -> tuple[str, str]:
    reward = fmean(history.of("reward").last(HALF))
    seen = f"to {share:.0%} of the prompts all answers score alike, at a mean reward of {reward:.3g}"
    if right is None or HARD < right < EASY:
        return (
            seen,
            f"take prompts of other difficulty ({SOURCES}), a higher {TEMPERATURE}, or a reward with more steps between bad and "
            f"good ({REWARDS})",
        )
    if right >= EASY:
        return (
            f"{seen}: they are too easy, nearly all answers are right",
            f"stop here, or give harder prompts ({SOURCES})",
        )
    return (
        f"{seen}: they are too hard, nearly all answers are wrong",
        f"give easier prompts ({SOURCES}), more answers to each ({ANSWERS}), a higher {TEMPERATURE}, or a reward that also "
        f"gives a part ({REWARDS}); fine-tune first if the model cannot do it at all",
    )
