"""A figure that is no number: nothing after it means anything."""

from collections.abc import Sequence

from dunwu.align.doctor.finding import Finding
from dunwu.align.doctor.history import History
from dunwu.align.doctor.keys import RATE

VITAL = ("reward", "kl", "entropy", "loss", "value_loss", "ratio_max", "rollout_gap")


def not_finite(names: Sequence[str], history: History) -> Finding | None:
    """`names`: figures of the latest row that are not finite."""
    broken = [name for name in names if name in VITAL]
    if not broken:
        return None
    return Finding(
        "not finite",
        history.step,
        "lost",
        f"{', '.join(broken)} {'is' if len(broken) == 1 else 'are'} not a number",
        f"look for a reward that gives nan or inf; otherwise lower {RATE} and go on from the best checkpoint",
    )
