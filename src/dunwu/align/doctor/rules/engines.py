"""The engine that sampled and the trainer that learns must mean the same model, and not move far apart within a batch."""

from statistics import median

from dunwu.align.doctor.finding import DoctorConfig, Finding
from dunwu.align.doctor.history import History
from dunwu.align.doctor.keys import AGAIN, RATE

GAP, WIDE_GAP = 0.05, 0.5  # nats a token
RATIO = 100.0
STEPS = 4


def rollout_gap(history: History, config: DoctorConfig) -> Finding | None:
    """A warning when the two differ by more than 0.05 nats a token over four steps; lost from half a nat on."""
    gap = history.of("rollout_gap")
    if len(gap) < STEPS or (now := median(gap.last(STEPS))) < GAP:
        return None
    return Finding(
        "engine and trainer differ",
        gap.since(lambda value: value >= GAP, smooth=1),
        "lost" if now >= WIDE_GAP else "warning",
        f"tokens have, in the middle, log-probabilities that differ by {now:.2g} nats between the engine that sampled them and "
        "the trainer, before anything was learned from them",
        "rounding explains up to 0.02 in bfloat16 and nothing in float32: look for other weights, another chat template or "
        "another temperature, or compute in rl.dtype=float32",
    )


def wide_ratios(history: History, config: DoctorConfig) -> Finding | None:
    """A warning when the largest ratio of a step is beyond 100 in most of the latest eight."""
    ratio = history.of("ratio_max")
    if len(ratio) < 2 * STEPS or (now := median(ratio.last(2 * STEPS))) < RATIO:
        return None
    return Finding(
        "ratios too wide",
        ratio.since(lambda value: value >= RATIO, smooth=1),
        "warning",
        f"within one batch of rollouts some token became {now:.3g} times as likely as when it was sampled",
        f"lower {RATE}, or learn fewer times from the same rollouts ({AGAIN})",
    )
