"""What a recipe says of how a reward model learns: one frozen, strict specification a method; the losses are in `align/reward/`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field

from dunwu.core.section import Auto, Section

Weight = Annotated[float, Field(ge=0)]


class PairsSpec(Section):
    """Pairs of a better and a worse answer, with margins and ties where the rows tell them (Bradley–Terry, Rao–Kupper)."""

    method: Literal["pairs"] = "pairs"
    centring: Weight = 0.0  # pulls scores towards 0 (arXiv:2312.09244); 0.01 is usual
    tie_threshold: Weight | Auto = "auto"  # the log of Rao–Kupper's theta; auto: from the share of ties


class StepsSpec(Section):
    """Answers in steps, each judged good or bad."""

    method: Literal["steps"] = "steps"


def _with_method(value: Any) -> Any:
    """Options alone are those of pairs."""
    if isinstance(value, Mapping):
        return {"method": "pairs", **cast("Mapping[str, Any]", value)}
    return value


AnyJudgement = Annotated[
    Annotated[PairsSpec | StepsSpec, Field(discriminator="method")],
    BeforeValidator(_with_method),
]
"""Every method's specification."""
