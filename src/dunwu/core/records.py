"""The nouns that cross from room to room: frozen, and free of torch.

`Document → Example → Tokens → Batch → Checkpoint → Completion → Score`; Batch and Checkpoint hold tensors and live in `train/`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Role = Literal["system", "developer", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text with its origin. `source` is the file's path relative to the folder read, with `#row` where a file holds several."""

    text: str
    source: str
    language: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """The assistant asks for a tool. `arguments`: as the model wrote them, which should be, and may not be, a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation. An assistant may call tools, with or without words; a turn of role "tool" is the result of
    the call `tool_call_id`, from the tool `name`."""

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A conversation to learn from; the assistant's turns carry the loss, but for those whose places are in `only_read`.
    `tools`: what may be called in it, in OpenAI's form."""

    messages: tuple[Message, ...]
    source: str
    tools: tuple[Mapping[str, Any], ...] = ()
    only_read: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """A prompt with a better and a worse answer, or with one answer that was judged: the other side is then None.

    A side is what follows the prompt, to an answer of the assistant's; all that the assistant says in it counts. `margin`: by how
    much the better one should lead, at least, where the data say so. `tie`: the two are equally good, in whatever order.
    """

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...] | None
    rejected: tuple[Message, ...] | None
    source: str
    tools: tuple[Mapping[str, Any], ...] = ()
    margin: float | None = None
    tie: bool = False

    @property
    def is_pair(self) -> bool:
        """Whether both sides are there."""
        return self.chosen is not None and self.rejected is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepwiseAnswer:
    """An answer in steps, each judged good (True), bad (False), or not at all (None)."""

    prompt: tuple[Message, ...]
    steps: tuple[str, ...]
    labels: tuple[bool | None, ...]
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Ids of one text, `[T]` int32, and a mask of the same length that is true where a token is to be learned."""

    ids: npt.NDArray[np.int32]
    learned: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUsage:
    """What an answer took. `cached_tokens`: those of the prompt that needed no reading."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token as text, its log-probability in nats, and the likeliest alternatives with theirs."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What the model wrote, and why it stopped: "stop" (end of turn), "length", "context", or "tool_calls".

    `ids` are empty where a partner does not tell them, `logprobs` where they were not asked for, `usage` is None where it is not
    told. `cost`: in the currency of the partner's price; None where nobody gave one. `model`: who answered. `thinking`: what was
    thought before the answer, where it is kept apart from it.
    """

    text: str
    ids: tuple[int, ...]
    finish_reason: Literal["stop", "length", "context", "tool_calls"]
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    usage: TokenUsage | None = None
    cost: float | None = None
    model: str = ""
    thinking: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A measured value with its unit, the number of independent cases, and a 95% interval."""

    name: str
    value: float
    low: float
    high: float
    n: int
    unit: str
    chance: float | None = None
