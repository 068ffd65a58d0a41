"""What a recipe or a caller says of policy gradients: one frozen, strict specification a method.

What each does is in `dunwu/align/advantages/`, one file a method. A new method is a specification here with its place in
`AnyPolicy`, a file there, and a line in `advantages/registry.py`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BeforeValidator, Field

from dunwu.core.nearest import validated
from dunwu.core.section import Count, Fraction, Rate, Section

Weight = Annotated[float, Field(ge=0)]
Discount = Annotated[float, Field(gt=0, le=1)]


class PolicySpec(Section):
    """A method and its options. Each has a field `method`, its key in `advantages/registry.py`.

    `in_groups`: it compares the answers to one prompt with each other. `wants_values`: it learns
    a second model, of the reward that is still to come. `kl_in_reward`: the divergence from the reference is taken off the
    reward, token by token, rather than added to the loss.
    """

    in_groups: ClassVar[bool] = False
    wants_values: ClassVar[bool] = False
    kl_in_reward: ClassVar[bool] = False

    beta: Weight = 0.0  # of the divergence from the model as it was; 0: no reference is kept
    kl: Literal["k1", "k2", "k3"] = "k3"  # its estimator in the loss (joschu.net/blog/kl-approx, 2020); in a reward: k1
    clip_low: Fraction = 0.2  # the ratio of new and old probability counts down to 1 - clip_low, and
    clip_high: Weight = 0.2  # up to 1 + clip_high
    rollout_cap: Weight = 2.0  # of the ratio of trainer and engine, which weights each token's loss; 0: no such weight
    per: Literal["answer", "token", "constant"] = (
        "answer"  # the loss: means of answers, of all tokens, or sums / a constant
    )
    entropy: Weight = 0.0  # nats a token, added to what is sought
    epochs: Count = 1  # times that answers are learned from
    minibatches: Count = 1  # updates of each time
    pretraining: Weight = 0.0  # of the loss on text of pre-training, mixed in against forgetting (arXiv:2203.02155)

    @property
    def name(self) -> str:
        """The method."""
        return str(self.model_dump(include={"method"})["method"])

    @property
    def updates(self) -> int:
        """Of the weights, for one rollout."""
        return self.epochs * self.minibatches

    @property
    def wants_reference(self) -> bool:
        """Whether it compares with the model as it was before."""
        return self.beta > 0

    @property
    def wants_groups(self) -> bool:
        """Whether there must be several answers to each prompt."""
        return self.in_groups


class ChoosingSpec(PolicySpec):
    """A method that can pass over prompts whose answers all scored alike, and ask others in their place (arXiv:2503.14476
    section 3.2): what scores alike says nothing of what is better."""

    dynamic_sampling: bool = False
    most_rounds: Count = 3  # of asking, with dynamic_sampling

    @property
    def wants_groups(self) -> bool:
        """Whether there must be several answers to each prompt."""
        return self.in_groups or self.dynamic_sampling


class GrpoSpec(ChoosingSpec):
    """Group relative policy optimisation (arXiv:2402.03300); with other options Dr. GRPO (arXiv:2503.20783) and DAPO
    (arXiv:2503.14476)."""

    in_groups: ClassVar[bool] = True
    method: Literal["grpo"] = "grpo"
    scale: Literal["group", "none"] = "group"  # by a group's standard deviation, or (Dr. GRPO) not at all
    overlong_tokens: Annotated[int, Field(ge=0)] = 0  # before the limit, over which a reward falls by 1 (DAPO); 0: none
    cut_off: Literal["learn", "leave_out"] = "learn"  # answers that did not end


class RlooSpec(ChoosingSpec):
    """REINFORCE, leave one out (arXiv:2402.14740)."""

    in_groups: ClassVar[bool] = True
    kl_in_reward: ClassVar[bool] = True
    method: Literal["rloo"] = "rloo"
    per: Literal["answer", "token", "constant"] = "constant"


class ReinforcePlusPlusSpec(ChoosingSpec):
    """REINFORCE++ (arXiv:2501.03262): advantages normalised over the whole batch."""

    kl_in_reward: ClassVar[bool] = True
    method: Literal["reinforce++"] = "reinforce++"
    beta: Weight = 0.01
    per: Literal["answer", "token", "constant"] = "token"
    baseline: Literal["none", "group"] = "none"  # group: rewards first lose the mean of their prompt


class PpoSpec(ChoosingSpec):
    """Proximal policy optimisation (arXiv:1707.06347) as InstructGPT has it (arXiv:2203.02155, appendix C)."""

    wants_values: ClassVar[bool] = True
    kl_in_reward: ClassVar[bool] = True
    method: Literal["ppo"] = "ppo"
    beta: Weight = 0.02
    kl_target: Weight = 0.0  # nats an answer that beta is steered to (arXiv:1909.08593 section 2.2); 0: beta stays
    kl_horizon: Count = 10_000  # answers over which it is steered
    epochs: Count = 2
    minibatches: Count = 2
    per: Literal["answer", "token", "constant"] = "token"
    gamma: Discount = 1.0
    lam: Fraction = 0.95  # of generalised advantage estimation (arXiv:1506.02438)
    normalise: bool = True  # advantages, to mean 0 and deviation 1
    value_clip: Weight = 0.2  # how far a value may move from what it was, for its loss; 0: as it likes
    value_weight: Weight = 0.5  # of the value model's loss, half its squared error
    value_lr: Rate = 1.0  # of the value model, as a multiple of the policy's for all weights
    value_from: Literal["auto", "reward", "policy"] = (
        "auto"  # what it begins from; auto: the reward model where its marks are what is learned
    )


class DistillSpec(PolicySpec):
    """On-policy distillation (arXiv:2306.13649): what learns is told by a teacher how likely each of its tokens is. The teacher
    stands where other methods have the model as it was; rewards say how it goes."""

    kl_in_reward: ClassVar[bool] = True
    method: Literal["distill"] = "distill"
    teacher: Annotated[str, Field(min_length=1)]  # a model's folder; its vocabulary must be the same
    reward_weight: Weight = 0.0  # of a score less the mean of its prompt's, beside the teacher's word
    beta: Annotated[float, Field(ge=0, le=0)] = 0.0
    per: Literal["answer", "token", "constant"] = "token"

    @property
    def wants_reference(self) -> bool:
        """The teacher."""
        return True


def _with_method(value: Any) -> Any:
    """Options alone are GRPO's."""
    if isinstance(value, Mapping):
        return {"method": "grpo", **cast("Mapping[str, Any]", value)}
    return value


AnyPolicy = Annotated[
    Annotated[GrpoSpec | RlooSpec | ReinforcePlusPlusSpec | PpoSpec | DistillSpec, Field(discriminator="method")],
    BeforeValidator(_with_method),
]
"""Every method's specification."""

METHODS = ("grpo", "rloo", "reinforce++", "ppo", "distill")


class _Holder(Section):
    algorithm: AnyPolicy


def policy_spec(values: Mapping[str, Any]) -> PolicySpec:
    """The specification that a mapping such as `{"method": "grpo", "beta": 0.1}` stands for.

    Raises RecipeError naming the key, its value, the rule, and the nearest key where one is not known.
    """
    return validated(_Holder, {"algorithm": dict(values)}).algorithm
