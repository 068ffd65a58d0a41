"""What a recipe or a caller says of learning from preferences: one frozen, strict specification a method.

What each does is in `dunwu/align/objectives/`, one file a method. A new method is a specification here with its place in
`AnyPreference`, a file there, and a line in `align/registry.py`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BeforeValidator, Field

from dunwu.core.nearest import validated
from dunwu.core.section import Rate, Section

Weight = Annotated[float, Field(ge=0)]


class PreferenceSpec(Section):
    """A method and its options. Each has a field `method`, its key in `align/registry.py`.

    `wants_reference`: it compares with the model as it was before. `takes_single_answers`: an answer with a verdict is enough,
    pairs are not needed. `over_the_batch`: its loss is no sum over its answers, so a batch is computed at once.
    """

    wants_reference: ClassVar[bool] = False
    takes_single_answers: ClassVar[bool] = False
    over_the_batch: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The method."""
        return str(self.model_dump(include={"method"})["method"])


class DpoSpec(PreferenceSpec):
    """Direct preference optimisation (arXiv:2305.18290)."""

    wants_reference: ClassVar[bool] = True
    method: Literal["dpo"] = "dpo"
    beta: Rate = 0.1  # the smaller, the further it may go from where it began
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0  # the share of pairs whose labels are wrong


class IpoSpec(PreferenceSpec):
    """Identity preference optimisation (arXiv:2310.12036)."""

    wants_reference: ClassVar[bool] = True
    method: Literal["ipo"] = "ipo"
    beta: Rate = 0.1  # the paper's tau
    per_token: bool = True  # log-probabilities are means over an answer's tokens


class KtoSpec(PreferenceSpec):
    """Kahneman-Tversky optimisation (arXiv:2402.01306)."""

    wants_reference: ClassVar[bool] = True
    takes_single_answers: ClassVar[bool] = True
    over_the_batch: ClassVar[bool] = True
    method: Literal["kto"] = "kto"
    beta: Rate = 0.1
    desirable_weight: Rate = 1.0
    undesirable_weight: Rate = 1.0


class OrpoSpec(PreferenceSpec):
    """Odds ratio preference optimisation (arXiv:2403.07691)."""

    method: Literal["orpo"] = "orpo"
    weight: Weight = 0.1  # of the odds ratio, beside the cross-entropy; the paper's lambda


class SimpoSpec(PreferenceSpec):
    """Simple preference optimisation (arXiv:2405.14734)."""

    method: Literal["simpo"] = "simpo"
    beta: Rate = 2.0
    gamma: Weight = 1.0  # by how much the chosen answer's reward should exceed the other's


class CpoSpec(PreferenceSpec):
    """Contrastive preference optimisation (arXiv:2401.08417)."""

    method: Literal["cpo"] = "cpo"
    beta: Rate = 0.1
    cross_entropy_weight: Weight = 1.0  # of the chosen answer's, beside the comparison


def _with_method(value: Any) -> Any:
    """Options alone are DPO's."""
    if isinstance(value, Mapping):
        return {"method": "dpo", **cast("Mapping[str, Any]", value)}
    return value


AnyPreference = Annotated[
    Annotated[DpoSpec | IpoSpec | KtoSpec | OrpoSpec | SimpoSpec | CpoSpec, Field(discriminator="method")],
    BeforeValidator(_with_method),
]
"""Every method's specification."""


class _Holder(Section):
    objective: AnyPreference


def preference_spec(values: Mapping[str, Any]) -> PreferenceSpec:
    """The specification that a mapping such as `{"method": "dpo", "beta": 0.1}` stands for.

    Raises RecipeError naming the key, its value, the rule, and the nearest key where one is not known.
    """
    return validated(_Holder, {"objective": dict(values)}).objective
