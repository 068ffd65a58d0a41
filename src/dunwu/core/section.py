"""The ground that every part of a recipe stands on: strict sections, and the kinds of values in them."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from dunwu.core.errors import RecipeError
from dunwu.core.units import parse_bytes, parse_duration


def whole(value: Any) -> Any:
    """`1e6` is a whole number too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def with_tuples(value: Any) -> Any:
    """Lists as tuples, all through: what a validator has looked at counts as Python's own, of which a strict tuple takes no list."""
    if isinstance(value, dict):
        return {key: with_tuples(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list):
        return tuple(with_tuples(item) for item in cast("list[Any]", value))
    return value


def _quantity(parse: Callable[[str], float], *, auto: bool = False) -> AfterValidator:
    """Check that `parse` understands the text."""

    def check(text: str) -> str:
        try:
            if not (auto and text == "auto"):
                parse(text)
        except RecipeError as error:
            raise ValueError(str(error)) from error
        return text

    return AfterValidator(check)


Auto = Literal["auto"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
Count = Annotated[int, BeforeValidator(whole), Field(ge=1)]
Duration = Annotated[str, _quantity(parse_duration)]
Bytes = Annotated[str, _quantity(parse_bytes, auto=True)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values are immutable, `nan` is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False, validate_default=True)
