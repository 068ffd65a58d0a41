"""A text model that says what it was told to say: for testing the rooms above in milliseconds. Its tokens are characters."""

from collections.abc import Callable, Sequence

from dunwu.chat.text_model import Likelihood, TextModel
from dunwu.core.errors import DataError
from dunwu.core.records import Completion, TokenUsage


class ScriptedText(TextModel):
    """`write` gives what follows a prompt, `likely` the logprob of a continuation in nats. `completed` and `judged` keep what it was asked."""

    def __init__(
        self,
        write: Callable[[str], str] = lambda prompt: "",
        likely: Callable[[str, str], float] = lambda context, continuation: -float(len(continuation)),
        *,
        name: str = "scripted",
        context_length: int | None = None,
    ) -> None:
        self.write, self.likely = write, likely
        self._name, self._context_length = name, context_length
        self.completed: list[str] = []
        self.judged: list[tuple[str, str]] = []

    @property
    def name(self) -> str:
        return self._name

    @property
    def context_length(self) -> int | None:
        return self._context_length

    def count_tokens(self, text: str) -> int | None:
        return len(text)

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        self.judged += pairs
        return [self._likelihood(context, continuation) for context, continuation in pairs]

    def complete(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[Completion]:
        del temperature, seed
        self.completed += prompts
        return [self._completion(prompt, max_tokens, stop) for prompt in prompts]

    def _likelihood(self, context: str, continuation: str) -> Likelihood:
        logprob = self.likely(context, continuation)
        cut = max(0, len(context) + len(continuation) - (self._context_length or len(context) + len(continuation)))
        return Likelihood(logprob=logprob, tokens=len(continuation), greedy=logprob == 0.0, cut=cut)

    def _completion(self, prompt: str, max_tokens: int, stop: Sequence[str]) -> Completion:
        if self._context_length is not None and len(prompt) >= self._context_length:
            raise DataError(f"a prompt takes {len(prompt)} tokens and this model reads {self._context_length}")
        text = self.write(prompt)
        text = text[: min([at for one in stop if (at := text.find(one)) >= 0], default=None)]
        return Completion(
            text=text[:max_tokens],
            ids=(),
            finish_reason="stop" if len(text) <= max_tokens else "length",
            usage=TokenUsage(prompt_tokens=len(prompt), completion_tokens=min(len(text), max_tokens)),
            model=self._name,
        )
