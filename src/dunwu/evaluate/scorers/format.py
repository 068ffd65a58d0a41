"""The share of what is asked of an answer's form that it keeps: a pattern, tags in order, and that it ends by itself."""

import re
from collections.abc import Sequence

import regex

from dunwu.core.errors import RecipeError
from dunwu.core.rewards import FormatReward
from dunwu.evaluate.scorers.base import Case


class FormatScorer:
    """Each of: the pattern is found, each tag is opened and closed once, the tags follow one another, the answer ends."""

    def __init__(self, spec: FormatReward, *, name: str = "format") -> None:
        """Raises RecipeError for a pattern that is none, and where nothing is asked."""
        self.spec, self.name = spec, name
        if not (spec.pattern or spec.tags or spec.ends):
            raise RecipeError("a format reward asks nothing of the answer; give it a pattern, tags, or ends: true")
        try:
            self._pattern = regex.compile(spec.pattern, regex.DOTALL)
        except regex.error as error:
            raise RecipeError(f"pattern {spec.pattern!r} is no regular expression: {error}; mend it") from error

    def __call__(self, cases: Sequence[Case]) -> list[float]:
        return [_share(self._kept(case)) for case in cases]

    def _kept(self, case: Case) -> list[bool]:
        text, spec = case.completion.text, self.spec
        kept = [self._is_found(text)] if spec.pattern else []
        places = [_place(text, tag) for tag in spec.tags]
        kept += [place is not None for place in places]
        if len(places) > 1:
            ends = [end for place in places if place is not None for end in place]
            kept.append(None not in places and ends == sorted(ends))
        return [*kept, case.completion.finish_reason == "stop"] if spec.ends else kept

    def _is_found(self, text: str) -> bool:
        try:
            return self._pattern.search(text, timeout=self.spec.timeout_s) is not None
        except TimeoutError:
            return False


def _place(text: str, tag: str) -> tuple[int, int] | None:
    """Where a tag opens and closes; None unless it does each once, in that order."""
    opened, closed = (
        [found.start() for found in re.finditer(re.escape(mark), text)] for mark in (f"<{tag}>", f"</{tag}>")
    )
    return (opened[0], closed[0]) if len(opened) == len(closed) == 1 and opened[0] < closed[0] else None


def _share(kept: Sequence[bool]) -> float:
    return sum(kept) / len(kept)
