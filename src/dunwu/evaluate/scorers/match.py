"""1 where the whole answer equals the row's, character by character, after what the specification leaves out of both.

The order is lm-evaluation-harness's (`exact_match`): expressions, case, punctuation, digits. `exact` is the kinder one.
"""

import re
import string
from collections.abc import Sequence

from dunwu.core.rewards import MatchReward
from dunwu.evaluate.scorers.base import Case, answers_in, column
from dunwu.evaluate.scorers.latex import same_latex

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_DIGITS = str.maketrans("", "", string.digits)


class MatchScorer:
    """Compares with the column `spec.answer`."""

    def __init__(self, spec: MatchReward, *, name: str = "match") -> None:
        self.spec, self.name = spec, name

    def __call__(self, cases: Sequence[Case]) -> list[float]:
        return [float(self._is_right(case)) for case in cases]

    def _is_right(self, case: Case) -> bool:
        said = self._left(case.completion.text)
        wanted = [self._left(answer) for answer in answers_in(column(case, self.spec.answer, self.name))]
        return any(same_latex(said, one) for one in wanted) if self.spec.latex else said in wanted

    def _left(self, text: str) -> str:
        for pattern in self.spec.ignore:
            text = re.sub(pattern, "", text)
        text = text.lower() if self.spec.ignore_case else text
        text = text.translate(_PUNCTUATION) if self.spec.ignore_punctuation else text
        return text.translate(_DIGITS) if self.spec.ignore_numbers else text
