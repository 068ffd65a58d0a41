"""How the learning rate and the batch change over a run: pure functions of progress, so that a resumed run continues them."""

import math

from dunwu.core.recipe import TrainSection


def lr_scale(section: TrainSection, progress: float) -> float:
    """The share of the peak learning rate at `progress`, 0 at the start and 1 at the end of the run.

    Linear warm-up over `warmup_fraction`, then by `schedule`: "constant"; "cosine" down to `final_lr_fraction`; "wsd"
    (warm-up, stable, decay; arXiv:2404.06395), level until the last `decay_fraction`, which falls in a straight line.
    """
    progress = min(max(progress, 0.0), 1.0)
    warmup, final = section.warmup_fraction, section.final_lr_fraction
    if progress < warmup:
        return progress / warmup
    if section.schedule == "constant":
        return 1.0
    if section.schedule == "cosine":
        rest = (progress - warmup) / max(1.0 - warmup, 1e-12)
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * rest))
    decay = min(section.decay_fraction, 1.0 - warmup)
    if decay <= 0.0 or progress <= 1.0 - decay:
        return 1.0
    return final + (1.0 - final) * (1.0 - progress) / decay


def batch_scale(section: TrainSection, progress: float) -> float:
    """The share of the full batch at `progress`: grows in a straight line from a quarter to the whole over
    `batch_warmup_fraction` of the run; 1 throughout when that is 0."""
    if section.batch_warmup_fraction <= 0.0 or progress >= section.batch_warmup_fraction:
        return 1.0
    return 0.25 + 0.75 * max(progress, 0.0) / section.batch_warmup_fraction
