"""Every scorer by its specification: a new one is a line here, a file beside it, and a specification in `core/rewards.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dunwu.chat.protocol import Chat
from dunwu.core import rewards
from dunwu.core.errors import RecipeError
from dunwu.core.rewards import RewardSpec
from dunwu.evaluate.scorers.base import Scorer
from dunwu.evaluate.scorers.exact import ExactScorer
from dunwu.evaluate.scorers.length import LengthScorer
from dunwu.evaluate.scorers.world import WorldScorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What scorers may need beside their specification. `chat`: who judges, where the specification names nobody."""

    chat: Chat | None = None


SCORERS: Mapping[type[RewardSpec], Callable[[Any, str, Means], Scorer]] = {
    rewards.ExactReward: lambda spec, name, _: ExactScorer(spec, name=name),
    rewards.WorldReward: lambda spec, name, _: WorldScorer(spec, name=name),
    rewards.LengthReward: lambda spec, name, _: LengthScorer(spec, name=name),
}


def build_scorer(spec: RewardSpec, name: str, means: Means) -> Scorer:
    """The scorer of a specification. Raises RecipeError for a kind that needs more than is here (a reward model)."""
    build = SCORERS.get(type(spec))
    if build is None:
        known = ", ".join(sorted(str(kind.model_fields["kind"].default) for kind in SCORERS))
        raise RecipeError(f"a reward of kind {spec.kind_name} cannot be computed here; use one of {known}")
    return build(spec, name, means)
