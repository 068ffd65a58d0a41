"""One part of the reward grows at another's cost: the sum is hacked."""

from statistics import fmean

from dunwu.align.doctor.finding import DoctorConfig, Finding
from dunwu.align.doctor.history import History
from dunwu.align.doctor.keys import REWARDS
from dunwu.align.doctor.rules.common import WHOLE, has_risen
from dunwu.align.doctor.trend import below_p, fall_p

LEAST = 0.1  # of its first level that a part loses
HALVED = 0.5


def parts_apart(history: History, config: DoctorConfig) -> Finding | None:
    """A warning when the reward rises while a part of it falls; lost when what fell is less than half of what it was."""
    reward, parts = history.of("reward"), history.beginning_with("reward.")
    if len(parts) < 2 or not has_risen(reward, config):
        return None
    for name, part in parts.items():
        if len(part) < 2 * WHOLE:
            continue
        first, last = part.first(WHOLE), part.last(WHOLE)
        began, now = fmean(first), fmean(last)
        if (
            began - now < LEAST * abs(began)
            or below_p(first, last) > config.false_alarm
            or fall_p(part.last(2 * WHOLE)) > 1e-3
        ):
            continue
        gain = max(parts, key=lambda other: fmean(parts[other].last(WHOLE)) - fmean(parts[other].first(WHOLE)))
        return Finding(
            "one part of the reward against another",
            part.since(lambda value, bar=(began + now) / 2: value < bar),
            "lost" if began > 0 and now < HALVED * began else "warning",
            f"the reward rises by its part {gain!r}, while its part {name!r} falls from {began:.3g} to {now:.3g}",
            f"give {name!r} a larger weight or {gain!r} a smaller one ({REWARDS}); read some answers: they may only please "
            f"{gain!r}",
        )
    return None
