"""The gateway's file: which partners there are, which names they answer to, and what each key may spend. Strict, as recipes are."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml.error import YAMLError

from dunwu.core.errors import RecipeError
from dunwu.core.units import parse_duration
from dunwu.core.yaml import parse_yaml
from dunwu.prompt.strategies.registry import require_strategy

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
ANYONE = "*"
"""The budget of each key that has none of its own."""


class GatewaySection(BaseModel):
    """A part of the file: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


class PriceSection(GatewaySection):
    """For a million tokens, in the currency of all budgets. `cached`: of a prompt's tokens that need no reading."""

    prompt: Annotated[float, Field(ge=0)] = 0.0
    completion: Annotated[float, Field(ge=0)] = 0.0
    cached: Annotated[float, Field(ge=0)] | None = None


class PartnerSection(GatewaySection):
    """A model of this machine (`model`: a build's home, a folder, owner/name), or with `url` one of an OpenAI-compatible
    endpoint. `delta`, on a model of this machine: a name in the registry, or a folder; partners that share a model share its
    memory. The key of the endpoint is what the environment's variable `key_env` holds; a file holds none."""

    model: str
    delta: str | None = None
    url: str | None = None
    key_env: str | None = None
    price: PriceSection | None = None
    timeout: str = "2min"
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    most_at_a_time: Annotated[int, Field(ge=1)] = 16
    extra: dict[str, Any] = Field(default_factory=dict)

    @field_validator("timeout")
    @classmethod
    def _require_duration(cls, text: str) -> str:
        try:
            parse_duration(text)
        except RecipeError as error:
            raise ValueError(str(error)) from error
        return text

    @model_validator(mode="after")
    def _require_url(self) -> Self:
        remote = {"key_env", "timeout", "attempts", "most_at_a_time", "extra"} & self.model_fields_set
        if self.url is None and remote:
            raise ValueError(f"{min(remote)} is for a partner with a url; give the url, or leave it out")
        if self.url is not None and self.delta is not None:
            raise ValueError(
                "delta is for a model of this machine; leave it out, or name the delta in `model` as the server does"
            )
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url={self.url!r} must begin with http:// or https://; it mostly ends in /v1")
        return self


class SureSection(GatewaySection):
    """When a cascade takes an answer: by the mean log-probability of its tokens, nats, or by how many of `samples` answers say the
    same."""

    mean_logprob: Annotated[float, Field(le=0)] | None = None
    samples: Annotated[int, Field(ge=2, le=32)] | None = None
    agree: Annotated[float, Field(gt=0, le=1)] = 2 / 3
    temperature: Annotated[float, Field(gt=0, le=2)] = 0.7

    @model_validator(mode="after")
    def _require_one(self) -> Self:
        if (self.mean_logprob is None) == (self.samples is None):
            raise ValueError("give one of mean_logprob and samples")
        return self


class RouteSection(GatewaySection):
    """A name that clients ask for: one partner, or several as a cascade or a fallback. A route may name other routes. `strategy`:
    how the question is put, such as cot+self-consistency:n=8. `chain`: the file of a chain, relative to this one, that asks this
    route's partner; `allow_code`: it may name functions of Python files beside it, whose code is run."""

    chat: str | None = None
    cascade: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    fallback: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    sure: SureSection | None = None
    strategy: str = ""
    chain: str | None = None
    allow_code: bool = False

    @field_validator("strategy")
    @classmethod
    def _require_strategy(cls, text: str) -> str:
        try:
            if text:
                require_strategy(text)
        except RecipeError as error:
            raise ValueError(str(error)) from error
        return text

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        return {"chat": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _require_one(self) -> Self:
        if sum(one is not None for one in (self.chat, self.cascade, self.fallback)) != 1:
            raise ValueError("give one of chat, cascade and fallback")
        if (self.cascade is None) != (self.sure is None):
            raise ValueError("a cascade needs `sure`, and nothing else has it: sure: {mean_logprob: -0.3}")
        return self

    @property
    def partners(self) -> tuple[str, ...]:
        """All that it names."""
        return self.cascade or self.fallback or ((self.chat,) if self.chat else ())


class BudgetSection(GatewaySection):
    """`limit`: what a key may spend in a period, in the currency of the prices."""

    limit: Annotated[float, Field(ge=0)]
    period: Literal["total", "month", "day"] = "month"


class GatewayConfig(GatewaySection):
    """The whole file. `ledger`: a folder in which what is spent outlives the server; relative to the file. `budgets`: by names of
    keys; `*` is each key that is not named."""

    partners: Annotated[dict[Name, PartnerSection], Field(min_length=1)]
    routes: Annotated[dict[Name, RouteSection], Field(min_length=1)]
    budgets: dict[str, BudgetSection] = Field(default_factory=dict)
    currency: str = "USD"
    ledger: str | None = None

    @model_validator(mode="after")
    def _require_partners(self) -> Self:
        known = [*self.partners, *self.routes]
        for name, route in self.routes.items():
            for wanted in route.partners:
                if wanted not in known:
                    near = difflib.get_close_matches(wanted, known, n=1)
                    remedy = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
                    raise ValueError(f"route {name} names the partner {wanted!r}, which there is not; {remedy}")
            self._require_end(name, ())
        return self

    def _require_end(self, name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ValueError(f"the route {name} leads to itself ({' → '.join((*above, name))}); let it name a partner")
        for wanted in self.routes[name].partners:
            if wanted not in self.partners:
                self._require_end(wanted, (*above, name))


def load_gateway(file: Path) -> GatewayConfig:
    """Raises RecipeError with every fault found, each with its key and what to write."""
    try:
        data = parse_yaml(file.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise RecipeError(f"cannot read the gateway's file {file}: {error}; give a YAML file") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{file} holds no keys with values; begin with `partners:` and `routes:`")
    try:
        return GatewayConfig.model_validate(data)
    except ValidationError as error:
        lines = [_complaint(one, data) for one in error.errors(include_url=False)]
        raise RecipeError("\n".join([f"{file} does not make a gateway:", *lines])) from error


_SECTIONS: Mapping[str, type[GatewaySection]] = {
    "partners": PartnerSection,
    "routes": RouteSection,
    "budgets": BudgetSection,
    "price": PriceSection,
    "sure": SureSection,
}


def _complaint(one: Any, data: Any) -> str:
    place = [str(part) for part in one["loc"]]
    key = ".".join(place)
    if one["type"] == "extra_forbidden":
        section = next((_SECTIONS[part] for part in reversed(place[:-1]) if part in _SECTIONS), GatewayConfig)
        near = difflib.get_close_matches(place[-1], section.model_fields, n=1)
        known = ", ".join(section.model_fields)
        return f"  unknown key {key}: " + (f"did you mean {near[0]}?" if near else f"known are {known}")
    if one["type"] == "missing":
        return f"  {key} is missing; give it"
    message = str(one["msg"]).removeprefix("Value error, ")
    return f"  {key}: {message}" if key else f"  {message}"
