"""What several rules ask."""

from statistics import fmean

from dunwu.align.doctor.finding import DoctorConfig
from dunwu.align.doctor.history import History, Series
from dunwu.align.doctor.trend import above_p, below_p

HALF, WHOLE = 8, 16
"""Steps of a short and of a long window."""
NEAR_TOP = 0.9  # of the range of rewards


def level(history: History, config: DoctorConfig, values: list[float]) -> float | None:
    """Where a mean reward lies between the least and the most that can be given: 0 to 1. None where the range is not known.

    Rewards that were all within 0 to 1 are taken to have that range.
    """
    low, high = config.reward_range or (0.0, 1.0)
    if config.reward_range is None and not all(0 <= value <= 1 for value in history.of("reward").values):
        return None
    return (fmean(values) - low) / (high - low)


def is_at_top(history: History, config: DoctorConfig) -> bool:
    """Whether the latest rewards are about the most that can be given."""
    reward = history.of("reward").last(HALF)
    place = level(history, config, reward) if reward else None
    return place is not None and place >= NEAR_TOP


def has_risen(reward: Series, config: DoctorConfig, *, window: int = WHOLE) -> bool:
    """Whether the latest rewards are surely above the first ones."""
    return len(reward) >= 2 * window and above_p(reward.first(window), reward.last(window)) < config.false_alarm


def has_fallen(reward: Series, config: DoctorConfig, *, window: int = WHOLE) -> bool:
    """Whether the latest rewards are surely below the first ones."""
    return len(reward) >= 2 * window and below_p(reward.first(window), reward.last(window)) < config.false_alarm
