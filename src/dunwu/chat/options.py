"""How an answer is asked for: one record for all partners."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Protocol, TypedDict

from dunwu.chat.forms import Tool, ToolChoice
from dunwu.core.errors import RecipeError


class Payer(Protocol):
    """Who pays for an answer, and for whatever was asked on the way to it."""

    def charge(self, cost: float) -> None:
        """Called when a partner with a price has answered, or was left in the middle of an answer."""
        ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """At the defaults: the likeliest answer of at most 256 tokens.

    `max_tokens` None: as many as the partner can. `stop`: strings that end the answer and are no part of it. `seed` None: another
    answer each time. `tools`: in OpenAI's form; `tool_choice`: "none", "auto", "required", or `{"type": "function",
    "function": {"name": …}}`. `schema`: the JSON schema that the answer must hold valid; `{"type": "object"}` is any object.
    `beams`: search for the likeliest answer with so many texts at a time, on this machine only.
    `logprobs`: None, or how many alternatives to report beside each token's own. `payer`: see `ledger.py`. Raises RecipeError for values out of range.
    """

    max_tokens: int | None = 256
    temperature: float = 0.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    schema: Mapping[str, Any] | None = None
    logprobs: int | None = None
    beams: int | None = None
    payer: Payer | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("max_tokens", 1, math.inf),
            ("temperature", 0, math.inf),
            ("top_p", 0, 1),
            ("presence_penalty", -2, 2),
            ("frequency_penalty", -2, 2),
            ("logprobs", 0, 20),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise RecipeError(
                    f"{name}={value} is out of range; use {low} to {high:g}"
                    if high < math.inf
                    else f"{name}={value} is out of range; use {low} or more"
                )
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise RecipeError(f"stop={self.stop!r} must be a tuple of strings, none empty; leave the empty one out")
        if self.schema is not None and self.tools and self.tool_choice != "none":
            raise RecipeError("an answer cannot follow a schema and call tools at once; give one of schema and tools")


class OptionChanges(TypedDict, total=False):
    """The fields of `ChatOptions` as keywords."""

    max_tokens: int | None
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    seed: int | None
    stop: tuple[str, ...]
    tools: tuple[Tool, ...]
    tool_choice: ToolChoice
    parallel_tool_calls: bool
    schema: Mapping[str, Any] | None
    logprobs: int | None
    beams: int | None
    payer: Payer | None


def settled(options: ChatOptions | None, changes: OptionChanges) -> ChatOptions:
    """The options with the changes."""
    options = options or ChatOptions()
    return dataclasses.replace(options, **changes) if changes else options
