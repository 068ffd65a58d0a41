"""The reward of a run: the weighted sum of the scorers that its specifications describe."""

from collections.abc import Sequence
from pathlib import Path

from dunwu.align.reward.scorer import RewardModelScorer
from dunwu.chat.protocol import Chat
from dunwu.core.devices import pick_device
from dunwu.core.errors import RecipeError
from dunwu.core.rewards import ModelReward, RewardSpec
from dunwu.evaluate.scorers.base import Scorer, Shaped, WeightedSum
from dunwu.evaluate.scorers.registry import Means, build_scorer


def make_reward(
    specs: Sequence[RewardSpec], *, reward_model: Path | None = None, chat: Chat | None = None
) -> WeightedSum:
    """The sum of all parts, each by its weight.

    `reward_model`: what a `model` reward without a path stands for. `chat`: who judges, where a `judge` names nobody. Raises
    RecipeError where either is needed and missing, and what the parts raise.
    """
    means = Means(chat=chat)
    parts: list[tuple[float, Scorer]] = []
    for spec, name in zip(specs, part_names(specs), strict=True):
        scorer = (
            _model_scorer(spec, name, reward_model)
            if isinstance(spec, ModelReward)
            else build_scorer(spec, name, means)
        )
        shaped = Shaped(scorer, scale=spec.scale, clip=spec.clip)
        parts.append((spec.weight, scorer if spec.scale == 1 and spec.clip is None else shaped))
    return WeightedSum(parts)


def _model_scorer(spec: ModelReward, name: str, reward_model: Path | None) -> Scorer:
    folder = Path(spec.path).expanduser() if spec.path else reward_model
    if folder is None:
        raise RecipeError(
            "a reward of kind model names no path, and this build has no reward stage; give it path: FOLDER, or reward.sources"
        )
    if not folder.is_dir():
        raise RecipeError(f"the reward model {folder} does not exist; name the folder of a reward model")
    return RewardModelScorer.load(folder, name=name, device=pick_device())


def part_names(specs: Sequence[RewardSpec]) -> list[str]:
    """What each part is called: its name, else its kind, with a number where that is taken."""
    names: list[str] = []
    for spec in specs:
        name = spec.name or spec.kind_name
        taken, number = name, 1
        while name in names:
            number += 1
            name = f"{taken}_{number}"
        names.append(name)
    return names
