"""A value function that explains nothing: its baseline is noise."""

from statistics import fmean

from dunwu.align.doctor.finding import DoctorConfig, Finding
from dunwu.align.doctor.history import History
from dunwu.align.doctor.keys import METHOD, VALUE_FROM, VALUE_RATE
from dunwu.align.doctor.rules.common import WHOLE

USELESS = 0.05


def useless_value(history: History, config: DoctorConfig) -> Finding | None:
    """After 32 steps the last 16 explain, on average, less than 5% of the variance of returns."""
    explained = history.of("explained_variance")
    if len(explained) < 2 * WHOLE or (now := fmean(explained.last(WHOLE))) >= USELESS:
        return None
    return Finding(
        "value function explains nothing",
        explained.since(lambda value: value < USELESS),
        "warning",
        f"its explained variance is {now:.2f}; 1 is perfect, 0 no better than a constant, less is worse than that",
        f"raise {VALUE_RATE}, begin it from a reward model ({VALUE_FROM}), or use a method without one: {METHOD}=grpo or rloo",
    )
