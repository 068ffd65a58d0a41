"""Entropy: a policy that always says the same has nothing to try; one that says anything has forgotten how to speak."""

from statistics import fmean

from dunwu.align.doctor.finding import DoctorConfig, Finding, Severity
from dunwu.align.doctor.history import History
from dunwu.align.doctor.keys import ANSWERS, KL, RATE, TEMPERATURE
from dunwu.align.doctor.rules.common import HALF, WHOLE, has_fallen, has_risen, is_at_top
from dunwu.align.doctor.trend import above_p, below_p

NOTED, COLLAPSED, GONE = 0.35, 0.2, 0.05  # of what it began with
DEAD = 0.9  # share of prompts whose answers score alike


def collapsed_entropy(history: History, config: DoctorConfig) -> Finding | None:
    """A note below 35% of the first steps' entropy, a warning below 20%. Lost below 5% where, besides, answers no longer
    differ in reward and the reward has not risen."""
    entropy = history.of("entropy")
    if len(entropy) < 2 * HALF:
        return None
    first, last = entropy.first(HALF), entropy.last(HALF)
    began, now = fmean(first), fmean(last)
    if not 0 <= now < NOTED * began or below_p(first, last) > config.false_alarm:
        return None
    severity: Severity = "warning" if now < COLLAPSED * began and not is_at_top(history, config) else "note"
    dead = history.of("groups_without_variance").last(HALF)
    stuck = dead and fmean(dead) >= DEAD and not has_risen(history.of("reward"), config, window=HALF)
    if severity == "warning" and now < GONE * began and stuck:
        severity = "lost"
    return Finding(
        "collapsed entropy",
        entropy.since(lambda value: value < NOTED * began),
        severity,
        f"the entropy fell from {began:.3g} to {now:.3g} nats a token: answers to one prompt are nearly the same",
        f"lower {RATE}, raise {KL} or {TEMPERATURE}, or give more answers to each prompt ({ANSWERS})",
    )


def exploding_entropy(history: History, config: DoctorConfig) -> Finding | None:
    """A warning when entropy doubled and rose by half a nat a token; lost when it rose by two nats and the reward fell."""
    entropy = history.of("entropy")
    if len(entropy) < 2 * HALF:
        return None
    first, last = entropy.first(HALF), entropy.last(HALF)
    began, now = fmean(first), fmean(last)
    if now < max(2 * began, began + 0.5) or above_p(first, last) > config.false_alarm:
        return None
    lost = now > began + 2 and len(entropy) >= 2 * WHOLE and has_fallen(history.of("reward"), config)
    return Finding(
        "exploding entropy",
        entropy.since(lambda value: value > max(2 * began, began + 0.5)),
        "lost" if lost else "warning",
        f"the entropy rose from {began:.3g} to {now:.3g} nats a token: what is sampled turns into noise",
        f"lower {RATE}, raise {KL}, or lower {TEMPERATURE}",
    )
