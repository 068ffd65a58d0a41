"""What is known of a metric by its name: its range, its direction, and whether it gives partial credit."""

import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dunwu.lab.emergence.measures import Floats

Kind = Literal["all-or-nothing", "graded", "other", "no ability"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """`kind`: graded ones give partial credit; "other": not known; "no ability": more of it is neither better nor worse. `as_log`: judged by its logarithm."""

    name: str
    low: float = -math.inf
    high: float = math.inf
    more_is_better: bool = True
    kind: Kind = "other"
    as_log: bool = False
    share: bool = False  # a share of questions, whose sampling error follows from their number

    @property
    def span(self) -> float:
        """From its worst to its best score; inf where there is no such."""
        return self.high - self.low

    def judged(self, scores_R: Floats) -> Floats:
        """Scores so that more is better: perplexities as minus their logarithm, errors with a minus."""
        found = np.log(scores_R) if self.as_log else scores_R
        return found if self.more_is_better else -found


def _all_or_nothing(name: str) -> Metric:
    return Metric(name=name, low=0.0, high=1.0, kind="all-or-nothing", share=True)


def _graded(name: str, high: float = 1.0) -> Metric:
    return Metric(name=name, low=0.0, high=high, kind="graded")


def _error(name: str, high: float = math.inf) -> Metric:
    return Metric(name=name, low=0.0, high=high, kind="graded", more_is_better=False)


_ALL_OR_NOTHING = (
    *("acc", "accuracy", "acc_norm", "exact_match", "exact_string_match", "em", "multiple_choice_grade", "mcg"),
    *("right", "pass", "pass_rate", "correct"),
)
KNOWN: dict[str, Metric] = {
    **{name: _all_or_nothing(name) for name in _ALL_OR_NOTHING},
    "pct_stereotype": Metric(name="pct_stereotype", low=0.0, high=1.0, kind="no ability", share=True),
    "likelihood_difference": Metric(name="likelihood_difference", low=0.0, kind="no ability"),
    "bleu": _graded("bleu", 100.0),
    **{name: _graded(name) for name in ("edit_similarity", "probability", "prob", "f1", "rouge", "rouge_l", "chrf")},
    "edit_distance": _error("edit_distance"),
    "brier": _error("brier", 2.0),
    "brier_score": _error("brier_score", 2.0),
    **{name: _error(name) for name in ("loss", "nll", "cross_entropy", "bits_per_byte")},
    **{
        name: Metric(name=name, low=0.0, kind="graded", more_is_better=False, as_log=True)
        for name in ("ppl", "perplexity")
    },
}
_PASS_AT = re.compile(r"(?:pass|right|acc|exact_match)@\d+")


def metric_of(name: str) -> Metric:
    """What is known of it; nothing of a name that is not."""
    plain = re.sub(r"[\s-]+", "_", name.strip().lower())
    if _PASS_AT.fullmatch(plain):
        return Metric(name=name, low=0.0, high=1.0, kind="other")
    known = KNOWN.get(plain)
    return Metric(name=name) if known is None else known


def split_name(column: str) -> tuple[str, str]:
    """Task and metric of a wide table's column: word_unscrambling_2_exact_match. Without a known metric at its end: the whole, and "score"."""
    plain = column.strip()
    for name in sorted(KNOWN, key=len, reverse=True):
        if plain.lower().endswith(f"_{name}"):
            return plain[: -len(name) - 1], name
    return plain, "score"
