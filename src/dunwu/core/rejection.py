"""What a caller says of rejection sampling: how answers are drawn, and which of them are learned from."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from dunwu.core.nearest import validated
from dunwu.core.overrides import apply_overrides, parse_overrides
from dunwu.core.section import Count, Section


class RejectionSpec(Section):
    """Rejection sampling (RAFT, arXiv:2304.06767; with `at_least` as in ReST, arXiv:2308.08998)."""

    n: Annotated[int, Field(ge=2)] = 8  # answers to each prompt
    at_least: float | None = None  # answers of this total or more are kept; None: the best of each prompt
    most: Count = 1  # different answers to a prompt that are kept, the best first
    answer_tokens: Count = 256
    temperature: float = Field(default=1.0, gt=0)
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0)] = 0


class _Holder(Section):
    rejection: RejectionSpec = RejectionSpec()


PREFIX = "rejection."


def rejection_spec(overrides: Sequence[str]) -> RejectionSpec:
    """The specification of words such as `rejection.n=16`. Raises RecipeError naming the key, its value and the rule."""
    data: dict[str, Any] = {}
    apply_overrides(data, parse_overrides(overrides, _Holder))
    return validated(_Holder, data).rejection
