"""Length: answers that grow or shrink, and whether they are rewarded for it."""

from statistics import fmean

from dunwu.align.doctor.finding import DoctorConfig, Finding
from dunwu.align.doctor.history import History, Series
from dunwu.align.doctor.keys import LENGTH, REWARDS
from dunwu.align.doctor.rules.common import HALF, WHOLE
from dunwu.align.doctor.trend import above_p, below_p, together

GREW, SHRANK = 1.5, 0.5
LINKED = 0.01  # the level of the test for reward and length going together
WITHIN = "reward_length_correlation"
"""Of the answers to one prompt, where a run measures it."""


def rising_length(history: History, config: DoctorConfig) -> Finding | None:
    """A note when answers grew by half or more; a warning when the reward rose with them and goes with length."""
    return _changed(history, config, grew=True)


def falling_length(history: History, config: DoctorConfig) -> Finding | None:
    """The same for answers half as long and less."""
    return _changed(history, config, grew=False)


def _changed(history: History, config: DoctorConfig, *, grew: bool) -> Finding | None:
    length, reward = history.of("answer_tokens"), history.of("reward")
    if len(length) < 3 * HALF:
        return None
    began, now = fmean(length.first(HALF)), fmean(length.last(HALF))
    if (now < GREW * began) if grew else (now > SHRANK * began):
        return None
    if (above_p if grew else below_p)(length.first(HALF), length.last(HALF)) > config.false_alarm:
        return None
    link = _link(history, length, reward, sign=1 if grew else -1)
    paid = link is not None and above_p(reward.first(HALF), reward.last(HALF)) < 0.01
    word = "longer" if grew else "shorter"
    seen = f"answers went from {began:.0f} to {now:.0f} tokens"
    bar = (GREW if grew else SHRANK) * began
    return Finding(
        "rising length" if grew else "falling length",
        length.since((lambda value: value >= bar) if grew else (lambda value: value <= bar)),
        "warning" if paid else "note",
        f"{seen}, and {word} ones are rewarded more ({link})"
        if paid
        else f"{seen}; the reward does not show that it pays",
        f"read some answers; if they are only {word}, add a reward of kind length or correct the reward for length ({REWARDS})"
        if paid
        else f"read some answers; {LENGTH} limits them",
    )


def _link(history: History, length: Series, reward: Series, *, sign: int) -> str | None:
    """How reward goes with length, in words, where it surely does."""
    within = history.of(WITHIN)
    if len(within) >= WHOLE:
        values = [sign * value for value in within.last(WHOLE)]
        if fmean(values) < 0.2 or above_p([-value for value in values], values) > LINKED:
            return None
        return f"correlation of {sign * fmean(values):+.2f} among answers to one prompt"
    both = min(len(length), len(reward), 2 * WHOLE)
    r, p = together([sign * value for value in length.last(both)], reward.last(both))
    return f"correlation of {sign * r:+.2f} from step to step" if p < LINKED else None
