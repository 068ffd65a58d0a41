"""What can be asked of a model as plain text, without the chat template: how likely is this, and how does it go on?

`Chat` is for those who converse; base models, and benchmarks that compare likelihoods, need this.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dunwu.core.records import Completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """How likely a continuation is after its context: `logprob` in nats, summed over its `tokens` tokens.

    `greedy`: each of its tokens is the likeliest one. `cut`: tokens at the context's beginning that the model could not see.
    """

    logprob: float
    tokens: int
    greedy: bool
    cut: int = 0


@runtime_checkable
class TextModel(Protocol):
    """A model as plain text. All methods raise DataError for what cannot be asked, and PartnerError when no answer comes."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def context_length(self) -> int | None:
        """Tokens that the model reads at once; None where nobody tells."""
        ...

    @abstractmethod
    def count_tokens(self, text: str) -> int | None:
        """Tokens of the text, without any that mark a beginning; None where nobody tells."""
        ...

    @abstractmethod
    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """Of each (context, continuation), in their order. An empty context stands for the beginning of a document, which may be
        longer than what the model reads at once: it is then judged window after window."""
        ...

    @abstractmethod
    def complete(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[Completion]:
        """How each prompt goes on, up to `max_tokens` or before the first of the `stop` strings, which is left out."""
        ...


class AroundText(TextModel):
    """A model with something around it: what is not said anew is the model's own."""

    def __init__(self, model: TextModel) -> None:
        self.model = model

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def context_length(self) -> int | None:
        return self.model.context_length

    def count_tokens(self, text: str) -> int | None:
        return self.model.count_tokens(text)
