"""Missing end of turn: answers that are cut at the limit, because the model does not stop by itself."""

from statistics import fmean

from dunwu.align.doctor.finding import DoctorConfig, Finding, Severity
from dunwu.align.doctor.history import History
from dunwu.align.doctor.keys import LENGTH, REWARDS
from dunwu.align.doctor.rules.common import HALF, WHOLE, has_risen
from dunwu.align.doctor.trend import below_p

FEW, NONE = 0.5, 0.1  # shares of answers that end by themselves
DROP = 0.2  # below what it began with


def missing_end_of_turn(history: History, config: DoctorConfig) -> Finding | None:
    """A warning when most answers are cut, or a fifth more than at first. Lost when nearly all are, over 16 steps, and either
    that was not so at first or the reward does not rise."""
    ended = history.of("ended")
    if len(ended) < HALF:
        return None
    first, last = ended.first(HALF), ended.last(HALF)
    began, now = fmean(first), fmean(last)
    fell = len(ended) >= 2 * HALF and now < began - DROP and below_p(first, last) < config.false_alarm
    if now >= FEW and not fell:
        return None
    severity: Severity = "warning"
    if (
        len(ended) >= 2 * WHOLE
        and fmean(ended.last(WHOLE)) < NONE
        and (fell or not has_risen(history.of("reward"), config))
    ):
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
