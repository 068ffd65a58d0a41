"""The price of an answer that is too long or too short, as DAPO shapes it (arXiv:2503.14476 eq. 13)."""

from collections.abc import Sequence

from dunwu.core.rewards import LengthReward
from dunwu.evaluate.scorers.base import Case


class LengthScorer:
    """0 from `least` to `most`; beyond, it falls in a line to -1 at `slack` too many or too few, and no further.

    DAPO's L_max is `most + slack` here, and its L_cache is `slack`. A partner that tells no ids is measured in characters.
    """

    def __init__(self, spec: LengthReward, *, name: str = "length") -> None:
        self.spec, self.name = spec, name

    def __call__(self, cases: Sequence[Case]) -> list[float]:
        return [self._of(case) for case in cases]

    def _of(self, case: Case) -> float:
        spec, said = self.spec, case.completion
        length = len(said.ids) if spec.unit == "tokens" and (said.ids or not said.text) else len(said.text)
        beyond = max(length - spec.most, spec.least - length, 0)
        return -min(beyond / spec.slack, 1.0) if spec.slack else -float(beyond > 0)
