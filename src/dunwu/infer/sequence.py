"""What is asked of the engine, and one text on its way."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

from dunwu.infer.blocks import Table
from dunwu.infer.sampling import SamplingParams

FinishReason = Literal["stop", "length", "context", "cancelled", "error"]
State = Literal["new", "waiting", "running", "finished"]
Task = Literal["write", "embed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A prompt and how to go on from it. Smaller `priority` is sooner. `adapter`: whose weights read it; None is the model's.

    `task` "embed": nothing is written, the prompt becomes a vector (`events.EmbeddingEvent`); `params` stay at their defaults.
    """

    id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    priority: int = 0
    adapter: str | None = None
    task: Task = "write"


@dataclass(slots=True, eq=False)
class Sequence:
    """One of a request's completions. `ids`: prompt and completion; the first `computed` of them are in the cache.

    `room`: tokens that it may still write, and `out_of_room` what it ends with then. `rank`: smaller is sooner. `guessing`: how
    many tokens may be guessed ahead. `salt`: texts of unequal salts share no blocks.
    """

    request: Request
    index: int
    ids: list[int]
    room: int
    out_of_room: FinishReason
    state: State = "new"
    computed: int = 0
    table: Table | None = None
    rank: tuple[int, int, int] | None = None
    guessing: int = 0
    salt: Hashable = None
    cached_tokens: int | None = None
    preemptions: int = 0
    finish_reason: FinishReason | None = None

    @property
    def remaining(self) -> int:
        """Tokens that are still to be read before the next can be chosen."""
        return len(self.ids) - self.computed

    @property
    def written(self) -> list[int]:
        """The completion."""
        return self.ids[len(self.request.prompt_ids) :]

    @property
    def reuses(self) -> bool:
        """Whether the prompt's beginning may come from the cache: not where what was read of each token is wanted."""
        return self.request.params.prompt_logprobs is None and self.request.task == "write"
