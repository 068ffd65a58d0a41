"""The reward itself: at its top, not moving at all, or falling."""

from statistics import fmean

from dunwu.align.doctor.finding import DoctorConfig, Finding
from dunwu.align.doctor.history import History
from dunwu.align.doctor.keys import ANSWERS, KL, RATE, REWARDS, SOURCES
from dunwu.align.doctor.rules.common import HALF, WHOLE, level
from dunwu.align.doctor.trend import below_p, rise_p, spread

TOP = 0.97
PATIENCE = 3 * WHOLE  # steps before standing still is remarkable
PATIENCE_SHARE = 0.5  # of the run
FELL, CRASHED = 0.25, 0.5  # of its best level that a reward loses, and at least this many deviations of a step:
SIGMAS = 3.0


def saturated_reward(history: History, config: DoctorConfig) -> Finding | None:
    """A note when the reward has been within 3% of the most that can be given for 16 steps."""
    reward = history.of("reward")
    if len(reward) < WHOLE or (place := level(history, config, reward.last(WHOLE))) is None or place < TOP:
        return None
    return Finding(
        "reward saturated",
        reward.since(lambda value: (level(history, config, [value]) or 0.0) >= TOP),
        "note",
        f"the mean reward is {fmean(reward.last(WHOLE)):.3f}, which is all that there is to gain",
        f"stop here, or go on with harder prompts ({SOURCES}) or a stricter reward ({REWARDS})",
    )


def no_learning(history: History, config: DoctorConfig) -> Finding | None:
    """A warning when neither the reward nor the held-out score has risen: after 48 steps, or half of a longer run."""
    reward, held_out = history.of("reward"), history.of("held_out_score")
    patience = max(PATIENCE, round(PATIENCE_SHARE * (config.steps or 0)))
    if len(reward) < patience or rise_p(reward.values) < 0.1 or rise_p(held_out.values) < 0.1:
        return None
    if (place := level(history, config, reward.last(WHOLE))) is not None and place >= 0.9:
        return None
    first, last = fmean(reward.first(WHOLE)), fmean(reward.last(WHOLE))
    noise = spread(reward.values)
    if last - first > noise or noise == 0:  # what never varies is no reward; groups without variance tell of dead ones
        return None
    return Finding(
        "no learning",
        reward.steps[0],
        "warning",
        f"after {len(reward)} rollouts the reward is {last:.3g}, {first:.3g} at first; it varies by {noise:.2g} from one to the next",
        f"look first at groups without variance; then raise {RATE}, lower {KL}, or give more answers to each prompt ({ANSWERS})",
    )


def falling_reward(history: History, config: DoctorConfig) -> Finding | None:
    """A warning when the reward of 8 steps is surely below its best 8, by a quarter of what it had; lost when it is by half, over
    16 steps."""
    reward = history.of("reward")
    if len(reward) < WHOLE + HALF:
        return None
    before = reward.values[:-WHOLE]
    best = max((before[at : at + HALF] for at in range(0, len(before) - HALF + 1, HALF)), key=fmean)
    last, top = reward.last(HALF), fmean(best)
    low = config.reward_range[0] if config.reward_range else min(0.0, *reward.values)
    lost_share = (top - fmean(last)) / (top - low) if top > low else 0.0
    if lost_share < FELL or below_p(best, last) > config.false_alarm or top - fmean(last) < SIGMAS * spread(best):
        return None
    bar = top - FELL * (top - low)
    lost = top - fmean(reward.last(WHOLE)) > CRASHED * (top - low) and max(reward.last(WHOLE)) < bar
    return Finding(
        "reward falls",
        reward.since(lambda value: value < bar),
        "lost" if lost else "warning",
        f"the reward fell from {top:.3g}, its best over {HALF} steps, to {fmean(last):.3g}",
        f"lower {RATE}, raise {KL}, and go on from the best checkpoint",
    )
