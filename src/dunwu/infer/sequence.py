"""What is asked of the engine, and one text on its way."""

from dataclasses import dataclass, field
from typing import Literal

from dunwu.infer.blocks import Table
from dunwu.infer.sampling import SamplingParams

FinishReason = Literal["stop", "length", "context", "cancelled", "error"]
State = Literal["waiting", "running", "finished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A prompt and how to go on from it. Smaller `priority` is sooner. `adapter`: whose weights read it; None is the model's."""

    id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    priority: int = 0
    adapter: str | None = None


@dataclass(slots=True, eq=False)
class Sequence:
    """One of a request's completions. `ids`: prompt and completion; the first `computed` of them are in the cache.

    `room`: tokens that it may still write, and `out_of_room` what it ends with then. `rank`: smaller is sooner.
    """

    request: Request
    index: int
    ids: list[int]
    room: int
    out_of_room: FinishReason
    state: State = "waiting"
    computed: int = 0
    table: Table | None = None
    rank: tuple[int, int] | None = None
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
        """Whether the prompt's beginning may come from the cache: not where each of its tokens is to be judged."""
        return self.request.params.prompt_logprobs is None
