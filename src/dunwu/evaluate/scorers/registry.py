"""Every scorer by its specification: a new one is a line here, a file beside it, and a specification in `core/rewards.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dunwu.chat.bridge import Blocking
from dunwu.chat.local import LocalChat
from dunwu.chat.protocol import Chat
from dunwu.chat.remote import RemoteChat
from dunwu.chat.router import Retrying
from dunwu.core import rewards
from dunwu.core.errors import RecipeError
from dunwu.core.rewards import JudgeReward, RewardSpec
from dunwu.evaluate.scorers.base import Scorer
from dunwu.evaluate.scorers.code import CodeScorer
from dunwu.evaluate.scorers.exact import ExactScorer
from dunwu.evaluate.scorers.format import FormatScorer
from dunwu.evaluate.scorers.function import FunctionScorer
from dunwu.evaluate.scorers.judge import JudgeScorer
from dunwu.evaluate.scorers.length import LengthScorer
from dunwu.evaluate.scorers.match import MatchScorer
from dunwu.evaluate.scorers.math import MathScorer
from dunwu.evaluate.scorers.objection import ObjectionScorer
from dunwu.evaluate.scorers.overlap import OverlapScorer
from dunwu.evaluate.scorers.schema import SchemaScorer
from dunwu.evaluate.scorers.world import WorldScorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What scorers may need beside their specification. `chat`: who judges, where the specification names nobody."""

    chat: Chat | None = None


SCORERS: Mapping[type[RewardSpec], Callable[[Any, str, Means], Scorer]] = {
    rewards.ExactReward: lambda spec, name, _: ExactScorer(spec, name=name),
    rewards.MathReward: lambda spec, name, _: MathScorer(spec, name=name),
    rewards.WorldReward: lambda spec, name, _: WorldScorer(spec, name=name),
    rewards.SchemaReward: lambda spec, name, _: SchemaScorer(spec, name=name),
    rewards.CodeReward: lambda spec, name, _: CodeScorer(spec, name=name),
    rewards.LengthReward: lambda spec, name, _: LengthScorer(spec, name=name),
    rewards.FormatReward: lambda spec, name, _: FormatScorer(spec, name=name),
    rewards.JudgeReward: lambda spec, name, means: JudgeScorer(spec, _judge(spec, means), name=name),
    rewards.MatchReward: lambda spec, name, _: MatchScorer(spec, name=name),
    rewards.OverlapReward: lambda spec, name, _: OverlapScorer(spec, name=name),
    rewards.ObjectionReward: lambda spec, name, _: ObjectionScorer(spec, name=name),
    rewards.FunctionReward: lambda spec, name, _: FunctionScorer(spec, name=name),
}


def _judge(spec: JudgeReward, means: Means) -> Chat:
    """Who judges. Raises RecipeError where nobody is named, and what opening a partner raises."""
    if spec.url:
        return Blocking(Retrying(RemoteChat(spec.url, spec.model, key_variable=spec.key_env)))
    if spec.model:
        return LocalChat.load(spec.model)
    if means.chat is None:
        raise RecipeError("a judge reward names no judge; give it model: FOLDER, or url: and model: of an endpoint")
    return means.chat


def build_scorer(spec: RewardSpec, name: str, means: Means) -> Scorer:
    """The scorer of a specification. Raises RecipeError for a kind that needs more than is here (a reward model)."""
    build = SCORERS.get(type(spec))
    if build is None:
        known = ", ".join(sorted(str(kind.model_fields["kind"].default) for kind in SCORERS))
        raise RecipeError(f"a reward of kind {spec.kind_name} cannot be computed here; use one of {known}")
    return build(spec, name, means)
