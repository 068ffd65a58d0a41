"""Training on text, conversations or preferences: skipped batches, a loss that jumps, rises or stands still, growing gradients."""

from itertools import pairwise
from statistics import fmean, median

from dunwu.align.doctor.finding import DoctorConfig, Finding
from dunwu.align.doctor.history import History
from dunwu.align.doctor.rules.common import HALF, WHOLE
from dunwu.align.doctor.trend import above_p, fall_p, spread

YOUNG = 2 * WHOLE  # steps in which curves fall and jump as they like
SIGMAS, NATS = 8.0, 1.0  # by which a loss jumps
ROSE = 0.05  # of its lowest level
STILL = 4 * WHOLE  # steps without a fall
GREW = 4.0  # times


def skipped_batches(history: History, config: DoctorConfig) -> Finding | None:
    """What the loop's guard did: a note for a batch, a warning from three on, or where it went back."""
    if not history.incidents:
        return None
    skips = sum(1 for one in history.incidents if one.kind == "skip")
    backs = len(history.incidents) - skips
    first = history.incidents[0]
    back = f" and went back {backs} times" if backs > 1 else " and went back once" if backs else ""
    return Finding(
        "batches skipped",
        first.step,
        "warning" if backs or skips >= 3 else "note",
        f"the loop threw away {skips} {'batch' if skips == 1 else 'batches'}{back}; first because {first.reason}",
        f"look at the data of that step; if it goes on, lower {config.section}.lr_adamw or {config.section}.grad_clip",
    )


def jumping_loss(history: History, config: DoctorConfig) -> Finding | None:
    """A note when a loss jumped by a nat and eight deviations, and was not thrown away."""
    loss = history.of("loss")
    recent = loss.last(WHOLE + config.judge_every_steps)
    if len(loss) < YOUNG + WHOLE or len(recent) <= WHOLE:
        return None
    before, fresh = recent[:WHOLE], recent[WHOLE:]
    noise = 1.4826 * median(abs(b - a) for a, b in pairwise(before)) / 2**0.5
    level = median(before)
    for at, value in enumerate(fresh):
        if value > level + max(NATS, SIGMAS * noise):
            step = loss.steps[len(loss) - len(fresh) + at]
            return Finding(
                "loss jumps",
                step,
                "note",
                f"the loss jumped from about {level:.3g} to {value:.3g}",
                f"one jump mends itself; if they come again, lower {config.section}.lr_adamw or lengthen "
                f"{config.section}.warmup_fraction",
            )
    return None


def rising_loss(history: History, config: DoctorConfig) -> Finding | None:
    """A warning when the loss of 16 steps is surely above the lowest 16, by 5% at least."""
    loss = history.of("loss")
    if len(loss) < YOUNG + 2 * WHOLE:
        return None
    before, last = loss.values[YOUNG:-WHOLE], loss.last(WHOLE)
    best = min((before[at : at + WHOLE] for at in range(0, len(before) - WHOLE + 1, WHOLE)), key=fmean, default=[])
    if len(best) < WHOLE:
        return None
    low, now = fmean(best), fmean(last)
    if now - low < max(ROSE * abs(low), 2 * spread(best)) or above_p(best, last) > config.false_alarm:
        return None
    return Finding(
        "loss rises",
        loss.since(lambda value: value > (low + now) / 2),
        "warning",
        f"the loss rose from {low:.3g}, its lowest over {WHOLE} steps, to {now:.3g}",
        f"lower {config.section}.lr_adamw and {config.section}.lr_muon, or look at what the data of these steps are",
    )


def still_loss(history: History, config: DoctorConfig) -> Finding | None:
    """A note when the loss has not fallen over half of the run, at least 64 steps."""
    loss = history.of("loss")
    half = min(len(loss) // 2, 32 * WHOLE)
    if half < STILL or fall_p(loss.last(half)) < 0.5:
        return None
    first, last = loss.last(half)[: half // 2], loss.last(half // 2)
    return Finding(
        "loss stands still",
        loss.steps[-half],
        "note",
        f"over the last {half} steps the loss went from {fmean(first):.3g} to {fmean(last):.3g}",
        "more of the same data gives little now: a larger model, other data, or a decay of the learning rate may",
    )


def growing_gradients(history: History, config: DoctorConfig) -> Finding | None:
    """A warning when the gradient's norm is four times what it was after the first steps."""
    norm = history.of("grad_norm")
    if len(norm) < YOUNG + 2 * WHOLE:
        return None
    early, last = norm.values[YOUNG : YOUNG + WHOLE], norm.last(HALF)
    began, now = median(early), median(last)
    if now < GREW * began or above_p(early, last) > config.false_alarm:
        return None
    return Finding(
        "gradients grow",
        norm.since(lambda value: value >= GREW * began),
        "warning",
        f"the gradient's norm went from {began:.3g} to {now:.3g}",
        f"lower {config.section}.lr_adamw; a norm that goes on growing ends in a loss that is no number",
    )
