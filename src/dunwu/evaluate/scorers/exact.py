"""1 where an answer is, or holds, what the row says is right; differences that nobody would mind aside."""

import unicodedata
from collections.abc import Sequence

from dunwu.core.rewards import ExactReward
from dunwu.evaluate.scorers.base import Case, answers_in, column


class ExactScorer:
    """Compares with the column `spec.answer`, after white space, case and punctuation as the specification says."""

    def __init__(self, spec: ExactReward, *, name: str = "exact") -> None:
        self.spec, self.name = spec, name

    def __call__(self, cases: Sequence[Case]) -> list[float]:
        return [float(self._is_right(case)) for case in cases]

    def _is_right(self, case: Case) -> bool:
        wanted = [self._plain(answer) for answer in answers_in(column(case, self.spec.answer, self.name))]
        text = case.completion.text
        if self.spec.where == "contains":
            said = f" {self._plain(text)} "
            return any(answer and _holds(said, answer) for answer in wanted)
        return self._plain(_part(text, self.spec.where)) in wanted

    def _plain(self, text: str) -> str:
        """One form for all that counts as the same: widths, runs of white space, and what the specification leaves out."""
        text = unicodedata.normalize("NFKC", text)
        if self.spec.ignore_case:
            text = text.casefold()
        if self.spec.ignore_punctuation:
            text = "".join(" " if _is_punctuation(text, at) else character for at, character in enumerate(text))
        return " ".join(text.split())


def _part(text: str, where: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    if where == "whole" or not lines:
        return text
    return lines[-1] if where == "last_line" else lines[0]


def _holds(said: str, answer: str) -> bool:
    """As whole words, where the answer is of a script that has such."""
    cjk = any("\u3040" <= character <= "\u9fff" for character in answer)
    return answer in said if cjk else f" {answer} " in said


def _is_punctuation(text: str, at: int) -> bool:
    """Marks that say nothing: not the point of 3.5, the minus of -2 or the signs of a formula."""
    if unicodedata.category(text[at])[0] != "P":
        return False
    after = text[at + 1 : at + 2]
    within_a_number = text[at] in ".,:/" and text[at - 1 : at].isdigit() and after.isdigit()
    return not within_a_number and not (text[at] in "-.%" and (after.isdigit() or text[at] == "%"))
