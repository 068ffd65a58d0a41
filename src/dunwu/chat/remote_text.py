"""A model behind an OpenAI-compatible endpoint as plain text, through `/v1/completions` (the extra "remote").

Likelihoods are those of the prompt's own tokens: `echo` with `logprobs`, as OpenAI's API has them, or vLLM's `prompt_logprobs`.
Where the endpoint tells its tokens (`/tokenize`, as ours and vLLM do), texts are parted as `LocalText` parts them; elsewhere by the
place in the text where each token begins.
"""

import itertools
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np

from dunwu.chat.endpoint import KEY_VARIABLE, MOST_AT_A_TIME, TIMEOUT_S, Endpoint, library
from dunwu.chat.local_text import parted, together, windows
from dunwu.chat.text_model import Likelihood, TextModel
from dunwu.core.errors import DataError, PartnerError
from dunwu.core.records import Completion, TokenUsage

T = TypeVar("T")
A = TypeVar("A")
BATCH = 8
ATTEMPTS = 4
MOST_STOPS = 4  # what OpenAI's API takes; the rest are looked for here
_FIRST_WAIT_S, _MOST_WAIT_S = 0.5, 30.0


class Scored(NamedTuple):
    """A token of a prompt: its log-probability (None of the first), whether none is likelier, and where its text begins and ends."""

    logprob: float | None
    greedy: bool
    start: int
    end: int


class Cut(NamedTuple):
    """A pair as it is sent: a text or ids, how many of the last tokens are judged (None: those beyond `characters` of the context),
    and how many of the context's were left out."""

    prompt: str | list[int]
    judged: int | None
    characters: int
    cut: int


class RemoteText(TextModel):
    """One model of one endpoint as a `TextModel`.

    `url`, `api_key`, `key_variable`, `timeout_s`, `most_at_a_time`: as in `RemoteChat`. What fails for the moment is tried `attempts`
    times. `add_special_tokens`: whether the endpoint puts its beginning-of-text token before a text; lm-evaluation-harness over
    transformers gives our own models none, so False asks for its numbers. `extra`: more fields of the request; None takes one out.
    Raises MissingExtraError without the package `openai`, RecipeError for a URL that is none.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        key_variable: str = KEY_VARIABLE,
        timeout_s: float = TIMEOUT_S,
        most_at_a_time: int = MOST_AT_A_TIME,
        attempts: int = ATTEMPTS,
        add_special_tokens: bool = True,
        extra: dict[str, Any] | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.endpoint = Endpoint(url=url, model=model, key=api_key, key_variable=key_variable, timeout_s=timeout_s)
        self._client: Any = library().OpenAI(**self.endpoint.settings())
        self._most, self._attempts, self._sleep = most_at_a_time, attempts, sleep
        self._starts, self._extra = add_special_tokens, dict(extra or {})
        self._facts: dict[str, Any] | None = None
        self._tokenizes: bool | None = None
        self._asks_vllm = False  # its field is asked for only where the older one brings nothing

    @property
    def name(self) -> str:
        return self.endpoint.model

    @property
    def context_length(self) -> int | None:
        """What the endpoint says of the model, where it says it (`max_model_len`, as ours and vLLM do)."""
        if self._facts is None:
            page = self._tried(lambda: self._client.models.list())
            found = [one for one in getattr(page, "data", None) or () if one.id == self.name]
            self._facts = dict(found[0].model_extra or {}) if found else {}
        told = self._facts.get("max_model_len")
        return told if isinstance(told, int) and told > 0 else None

    def count_tokens(self, text: str) -> int | None:
        ids = self._ids(text, starts=False)
        return None if ids is None else len(ids)

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """Raises PartnerError where the endpoint tells no log-probabilities of prompts, DataError for what does not fit."""
        for place, (_, continuation) in enumerate(pairs):
            if not continuation:
                raise DataError(f"continuation {place + 1} is empty; give a text whose likelihood is to be found")
        if not pairs:
            return []
        first = self._cuts(0, *pairs[0])  # what the endpoint can is found out once
        parts = [first, *self._each(lambda at: self._cuts(at, *pairs[at]), range(1, len(pairs)))]
        judged = iter(self._judge_all([cut for own in parts for cut in own]))
        return [together([next(judged) for _ in own]) for own in parts]

    def _judge_all(self, cuts: Sequence[Cut]) -> list[Likelihood]:
        order = sorted(range(len(cuts)), key=lambda at: len(cuts[at].prompt))
        batches = [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
        head = self._judge([cuts[at] for at in batches[0]])
        judged = [head, *self._each(lambda batch: self._judge([cuts[at] for at in batch]), batches[1:])]
        found = dict(zip(order, itertools.chain.from_iterable(judged), strict=True))
        return [found[at] for at in range(len(cuts))]

    def complete(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[Completion]:
        fields: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
        if stop:
            fields["stop"] = list(stop)[:MOST_STOPS]

        def ask(at: int) -> Completion:
            own = {} if seed is None else {"seed": seed + at}
            return self._completion(self._ask(prompts[at], **fields, **own), stop)

        return self._each(ask, range(len(prompts)))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # ------------------------------------------------------------------------------------------------------ likelihoods

    def _cuts(self, place: int, context: str, continuation: str) -> list[Cut]:
        """A pair as it is sent; a document that is longer than the context, in windows as `LocalText` has them."""
        context, continuation = parted(context, continuation)
        whole = self._ids(context + continuation)
        if whole is None:
            return [Cut(context + continuation, None, len(context), 0)]
        before = self._ids(context) or []
        judged = whole[len(before) :] or (self._ids(continuation, starts=False) or [])
        if not context and not before:
            before = self._nothing()
        most = self.context_length
        if most is None:
            return [Cut([*before, *judged], len(judged), 0, 0)]
        room = most - 1  # one token must be written after the prompt
        if len(judged) >= room and not context:
            parts = windows(np.array(before[-1:]), np.array(judged), room - 1)
            return [Cut(part.ids.tolist(), part.judged, 0, 0) for part in parts]
        if len(judged) >= room:
            raise DataError(
                f"continuation {place + 1} takes {len(judged)} tokens and {self.name} reads {most}; make it shorter, or use a model "
                "that reads more"
            )
        ids = [*before, *judged]
        return [Cut(ids[-room:], len(judged), 0, max(0, len(ids) - room))]

    def _nothing(self) -> list[int]:
        """What an empty context is: what the endpoint puts before a text by itself."""
        start = self._ids("", starts=True)
        if not start:
            raise DataError(
                f"{self.endpoint.url} puts nothing before a text, so that the first token of one after an empty context cannot be "
                "judged; give a context"
            )
        return start

    def _ids(self, text: str, *, starts: bool | None = None) -> list[int] | None:
        """The endpoint's tokens of a text; None where it does not tell them."""
        if self._tokenizes is False:
            return None
        body = {
            "model": self.name,
            "prompt": text,
            "add_special_tokens": self._starts if starts is None else starts,
        }
        address = self.endpoint.url.rstrip("/").removesuffix("/v1") + "/tokenize"
        try:
            answer = self._tried(lambda: self._client.post(address, body=body, cast_to=object))
            ids = [int(number) for number in answer["tokens"]]  # type: ignore[index]
        except (PartnerError, TypeError, KeyError, ValueError) as error:
            if self._tokenizes or (isinstance(error, PartnerError) and error.transient):
                raise
            self._tokenizes = False
            return None
        self._tokenizes = True
        return ids

    def _judge(self, cuts: Sequence[Cut]) -> list[Likelihood]:
        prompts = [cut.prompt for cut in cuts]
        if not self._asks_vllm:
            answer = self._ask(prompts, max_tokens=1, temperature=0.0, echo=True, logprobs=1)
            told = [_echoed(choice) for choice in _choices(answer, len(cuts), self.endpoint)]
            if all(one is not None for one in told):
                return [_likelihood(cut, one or [], self.endpoint) for cut, one in zip(cuts, told, strict=True)]
        answer = self._ask(prompts, max_tokens=1, temperature=0.0, extra_body={"prompt_logprobs": 1})
        told = [_of_vllm(choice) for choice in _choices(answer, len(cuts), self.endpoint)]
        if any(one is None for one in told):
            raise PartnerError(
                f"{self.endpoint.url} does not tell how likely a prompt is: it gives log-probabilities neither for `echo` nor for "
                "`prompt_logprobs`. Serve the model with `dunwu serve` or vLLM, or let the answers be written instead of judged",
                transient=False,
            )
        self._asks_vllm = True
        return [_likelihood(cut, one or [], self.endpoint) for cut, one in zip(cuts, told, strict=True)]

    # --------------------------------------------------------------------------------------------------------- requests

    def _completion(self, answer: Any, stop: Sequence[str]) -> Completion:
        (choice,) = _choices(answer, 1, self.endpoint)
        text = choice.text or ""
        ends = [at for one in stop if (at := text.find(one)) >= 0]
        usage = getattr(answer, "usage", None)
        return Completion(
            text=text[: min(ends, default=len(text))],
            ids=(),
            finish_reason="length" if choice.finish_reason == "length" and not ends else "stop",
            usage=usage
            and TokenUsage(prompt_tokens=usage.prompt_tokens or 0, completion_tokens=usage.completion_tokens or 0),
            model=getattr(answer, "model", None) or self.name,
        )

    def _ask(self, prompt: Any, **fields: Any) -> Any:
        body = fields.pop("extra_body", {}) | ({} if self._starts else {"add_special_tokens": False}) | self._extra
        body = {name: value for name, value in body.items() if value is not None}
        return self._tried(
            lambda: self._client.completions.create(model=self.name, prompt=prompt, extra_body=body or None, **fields)
        )

    def _tried(self, ask: Callable[[], Any]) -> Any:
        """What the endpoint answers; asked again where it fails for the moment."""
        for attempt in range(1, self._attempts + 1):
            try:
                return self._asked(ask)
            except PartnerError as error:
                if not error.transient or attempt == self._attempts:
                    raise
                wait_s = _FIRST_WAIT_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)
                self._sleep(min(max(wait_s, error.retry_after_s or 0.0), _MOST_WAIT_S))
        raise AssertionError("the last attempt answers or raises")

    def _asked(self, ask: Callable[[], Any]) -> Any:
        try:
            answer = ask()
        except Exception as error:  # whatever lies between us and the model
            self.endpoint.fail(error)
        if isinstance(answer, str):
            raise PartnerError(
                f"{self.endpoint.url} answered with a page of text where JSON is due; is this the address of an OpenAI-compatible "
                "API? It mostly ends in /v1",
                transient=False,
            )
        return answer

    def _each(self, ask: Callable[[A], T], over: Sequence[A]) -> list[T]:
        """Of each, several at a time, in their order; the first failure ends what has not begun."""
        if not over:
            return []
        with ThreadPoolExecutor(min(self._most, len(over))) as pool:
            waiting = [pool.submit(ask, one) for one in over]
            try:
                return [one.result() for one in waiting]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _choices(answer: Any, count: int, endpoint: Endpoint) -> list[Any]:
    choices = sorted(getattr(answer, "choices", None) or (), key=lambda choice: choice.index or 0)
    if len(choices) != count:
        raise PartnerError(
            f"{endpoint.url} gave {len(choices)} answers to {count} prompts; is this the address of an OpenAI-compatible API? It mostly "
            "ends in /v1",
            transient=False,
        )
    return choices


def _echoed(choice: Any) -> list[Scored] | None:
    """The tokens of prompt and answer, of `echo` with `logprobs`; None where there are none of the prompt."""
    told = getattr(choice, "logprobs", None)
    tokens, logprobs, starts = (
        list(getattr(told, name, None) or ()) for name in ("tokens", "token_logprobs", "text_offset")
    )
    if len(tokens) < 2 or not len(tokens) == len(logprobs) == len(starts) or logprobs[0] is not None:
        return None
    likeliest = getattr(told, "top_logprobs", None) or [None] * len(tokens)
    text = choice.text or ""
    # A mark of the beginning counts in some servers' places and is not in their text.
    shift = starts[1] if starts[1] and not text.startswith(tokens[0]) else 0
    places = [start - shift for start in starts]
    ends = [*places[1:], len(text)]
    return [
        Scored(logprob, logprob is not None and bool(top) and logprob >= max(top.values()), start, end)
        for logprob, top, start, end in zip(logprobs, likeliest, places, ends, strict=True)
    ]


def _of_vllm(choice: Any) -> list[Scored] | None:
    """vLLM's `prompt_logprobs`: for each token of the prompt the likeliest ones and itself, which comes first."""
    told = (choice.model_extra or {}).get("prompt_logprobs")
    if not isinstance(told, list) or len(told) < 2:
        return None
    scored = [Scored(None, False, 0, 0)]
    for one in told[1:]:
        if not isinstance(one, dict) or not one:
            return None
        own, *_ = one.values()
        scored.append(Scored(float(own["logprob"]), own.get("rank") == 1, 0, 0))
    return [*scored, Scored(None, False, 0, 0)]  # and one for the token written after it, of which nothing is told here


def _likelihood(cut: Cut, told: Sequence[Scored], endpoint: Endpoint) -> Likelihood:
    if cut.judged is not None:
        judged = told[: len(cut.prompt)][-cut.judged :]
        whole = len(told) >= len(cut.prompt) and len(judged) == cut.judged
    else:
        size = len(cut.prompt)
        judged = [one for one in told if one.start < size and (one.start >= cut.characters or one.end > cut.characters)]
        judged = judged[1:] if judged and judged[0].logprob is None else judged
        whole = bool(judged) and any(one.end for one in told)
    if not whole or any(one.logprob is None for one in judged):
        raise PartnerError(
            f"{endpoint.url} told the log-probabilities of {len(told)} tokens, and not of all that are to be judged; ask a server whose "
            "`echo` gives the whole prompt, such as `dunwu serve` or vLLM",
            transient=False,
        )
    return Likelihood(
        logprob=sum(one.logprob or 0.0 for one in judged),
        tokens=len(judged),
        greedy=all(one.greedy for one in judged),
        cut=cut.cut,
    )
