"""Hacking: what is trained on scores ever better, what was kept out ever worse."""

from statistics import fmean

from dunwu.align.doctor.finding import DoctorConfig, Finding
from dunwu.align.doctor.history import History, Series
from dunwu.align.doctor.keys import KL, REWARDS, SOURCES
from dunwu.align.doctor.trend import above_p, bend, fall_p, rise_p

FEWEST = 6  # evaluations
LONG = 12


def falling_held_out(history: History, config: DoctorConfig) -> Finding | None:
    """Among the last 6 to 12 evaluations the score falls while the reward rises. Lost when it ends below where it began."""
    held_out, reward = history.of("held_out_score"), history.of("reward")
    if len(held_out) < FEWEST:
        return None
    since = _fall_begins(held_out)
    if since is None:
        return None
    values, steps = held_out.values[since:], held_out.steps[since:]
    over = [value for value, step in zip(reward.values, reward.steps, strict=True) if step >= steps[0]]
    third = max(2, len(over) // 3)
    if rise_p(over) > 0.01 or above_p(over[:third], over[-third:]) > 1e-3:
        return None
    worst, began = fmean(values[-2:]), fmean(held_out.first(2))
    drop = fmean(values[:2]) - worst
    lost = len(values) >= FEWEST and worst < began - max(0.25 * drop, 2 * _noise(held_out)) and fall_p(values) < 1e-3
    return Finding(
        "reward up, held-out score down",
        steps[bend(values)],
        "lost" if lost else "warning",
        f"since step {steps[0]} the reward rose from {fmean(over[:third]):.3g} to {fmean(over[-third:]):.3g}, while the score "
        f"on prompts that were kept out fell from {fmean(values[:2]):.3g} to {worst:.3g}",
        f"take the best checkpoint; give more prompts ({SOURCES}), raise {KL}, or look for what the reward overlooks ({REWARDS})",
    )


def _fall_begins(held_out: Series) -> int | None:
    """Where among the evaluations a fall begins that is more than noise."""
    for count in (LONG, FEWEST):
        values = held_out.last(count)
        if (
            len(values) == count
            and fall_p(values) < 0.005
            and fmean(values[:2]) - fmean(values[-2:]) > 3 * _noise(held_out)
        ):
            return len(held_out) - count
    return None


def _noise(held_out: Series) -> float:
    """The standard deviation of one evaluation, from the bends of the curve: a steady rise or fall has none."""
    v = held_out.values
    bends = sorted(abs(a - 2 * b + c) for a, b, c in zip(v, v[1:], v[2:], strict=False))
    return 1.4826 * bends[len(bends) // 2] / 6**0.5
