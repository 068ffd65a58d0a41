"""Missing end of turn: answers that are cut at the limit, because the model does not stop by itself."""

from statistics import fmean

from dunwu.align.doctor.finding import DoctorConfig, Finding, Severity
from dunwu.align.doctor.history import History, Series
from dunwu.align.doctor.keys import LENGTH, REWARDS
from dunwu.align.doctor.rules.common import HALF, WHOLE
from dunwu.align.doctor.trend import below_p, rise_p

FEW, NONE = 0.5, 0.1  # shares of answers that end by themselves
SIGN = 0.02  # the level at which a reward shows signs of rising
DROP = 0.2  # below what it began with


def missing_end_of_turn(history: History, config: DoctorConfig) -> Finding | None:
    """A warning when most answers are cut, or a fifth more than at first. Lost when nearly all are, over 16 steps, and either
    that was not so at first or the reward, where there is one, shows no sign of rising."""
    ended = history.of("ended")
    if len(ended) < HALF:
        return None
    first, last = ended.first(HALF), ended.last(HALF)
    began, now = fmean(first), fmean(last)
    fell = len(ended) >= 2 * HALF and now < began - DROP and below_p(first, last) < config.false_alarm
    if now >= FEW and not fell:
        return None
    severity: Severity = "warning"
    if len(ended) >= 2 * WHOLE and fmean(ended.last(WHOLE)) < NONE and (fell or _is_futile(history.of("reward"))):
        severity = "lost"
    bar = max(FEW, began - DROP) if fell else FEW
    seen = (
        f"{now:.0%} of the answers end by themselves, {began:.0%} at first"
        if fell
        else f"only {now:.0%} of the answers end by themselves"
    )
    limit = f" of {config.answer_tokens}" if config.answer_tokens else ""
    return Finding(
        "missing end of turn",
        ended.since(lambda value: value < bar),
        severity,
        f"{seen}; the others are cut at the limit{limit}",
        f"raise {LENGTH} if right answers need more room; if they ramble on, take a penalty for answers that are cut "
        f"({REWARDS}), or fine-tune again with the end of turn inside the loss",
    )


def _is_futile(reward: Series) -> bool:
    return len(set(reward.values)) > 1 and rise_p(reward.values) > SIGN
