"""A learning rate that is too high: updates leave the range in which the old samples say anything."""

from statistics import fmean

from dunwu.align.doctor.finding import DoctorConfig, Finding
from dunwu.align.doctor.history import History
from dunwu.align.doctor.keys import AGAIN, RATE
from dunwu.align.doctor.rules.common import HALF, has_fallen

HIGH, MOST = 0.3, 0.5


def high_rate(history: History, config: DoctorConfig) -> Finding | None:
    """A warning when 30% of the tokens are clipped over eight steps; lost from half on, where the reward fell besides."""
    clipped = history.of("ratio_clipped")
    if len(clipped) < HALF or (now := fmean(clipped.last(HALF))) < HIGH:
        return None
    lost = now >= MOST and has_fallen(history.of("reward"), config, window=HALF)
    return Finding(
        "learning rate too high",
        clipped.since(lambda value: value >= HIGH),
        "lost" if lost else "warning",
        f"{now:.0%} of the tokens moved beyond the clip range within one batch of rollouts",
        f"lower {RATE} to a third, or learn fewer times from the same rollouts ({AGAIN})",
    )
