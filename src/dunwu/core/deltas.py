"""What a recipe or a caller says of parameter-efficient tuning: one frozen, strict specification a method.

What each does is in `dunwu/delta/`, one file a method. A new method is a specification here with its place in `AnyDelta`, a
file there, and a line in `delta/registry.py`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from dunwu.core.errors import RecipeError
from dunwu.core.nearest import explain_validation
from dunwu.core.section import Auto, Count, Decay, Rate, Section

ALL_LINEAR = "all-linear"
"""In place of patterns: every linear layer of the blocks."""


class DeltaSpec(Section):
    """A method and its options. Each has a field `method`, its key in `delta/registry.py`."""

    @property
    def name(self) -> str:
        """The method."""
        return str(self.model_dump(include={"method"})["method"])


class LowRankSpec(DeltaSpec):
    """What LoRA and its kin share."""

    r: Count = 8
    alpha: Rate | Auto = "auto"  # auto: twice the rank
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = (ALL_LINEAR,)  # q_proj, *.mlp.*, model.layers.[0-9].*
    dropout: Decay = 0.0  # of what goes into A, while training
    rank_stabilised: bool = False  # the product counts alpha / sqrt(r) times (arXiv:2312.03732), not alpha / r
    lr_ratio: Annotated[float, Field(ge=1)] = 1.0  # the rate of B, as a multiple of A's (arXiv:2402.12354)


class LoraSpec(LowRankSpec):
    """LoRA (arXiv:2106.09685): `alpha / r · B A` is added to each matrix that `targets` name."""

    method: Literal["lora"] = "lora"


class RsLoraSpec(LowRankSpec):
    """Rank-stabilised LoRA (arXiv:2312.03732)."""

    method: Literal["rslora"] = "rslora"
    rank_stabilised: bool = True


class LoraPlusSpec(LowRankSpec):
    """LoRA+ (arXiv:2402.12354): B learns faster than A."""

    method: Literal["lora_plus"] = "lora_plus"
    lr_ratio: Annotated[float, Field(ge=1)] = 16.0


AnyDelta = Annotated[LoraSpec | RsLoraSpec | LoraPlusSpec, Field(discriminator="method")]
"""Every method's specification."""


class _Holder(Section):
    delta: AnyDelta


def delta_spec(values: Mapping[str, Any]) -> DeltaSpec:
    """The specification that a mapping such as `{"method": "lora", "r": 8}` stands for.

    Raises RecipeError naming the key, its value, the rule, and the nearest key where one is not known.
    """
    data = {"delta": dict(values)}
    try:
        return _Holder.model_validate(data).delta
    except ValidationError as error:
        raise RecipeError(explain_validation(error, data, _Holder)) from error
