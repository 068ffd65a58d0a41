"""`POST /v1/completions`: text goes on from text, without a template. `echo` with `logprobs` judges the prompt itself."""

import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

from dunwu.infer.events import Answer, FinishEvent, Output, PromptEvent, PromptToken, TokenEvent, Usage
from dunwu.infer.sampling import SamplingParams, Scored
from dunwu.infer.sequence import Request
from dunwu.serve.answers import FINGERPRINT, Head, finite, token_text, usage_object, usage_of
from dunwu.serve.asking import constraint_of, require_few, require_room, sampling_params
from dunwu.serve.models import ServedModel
from dunwu.serve.objects import Completion, TextChoice, TextLogprobs
from dunwu.serve.prompts import Prompt, read_prompts
from dunwu.serve.schemas import CompletionRequest
from dunwu.serve.streams import Asked, require_finished, sse
from dunwu.serve.visit import Visit
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.stream import StreamDecoder

DEFAULT_MAX_TOKENS = 16  # OpenAI's


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """A request under way. `judges`: the prompts' own log-probabilities are wanted. `writes`: what comes after is too."""

    head: Head
    model: ServedModel
    request: CompletionRequest
    prompts: tuple[Prompt, ...]
    asked: Asked
    judges: bool
    writes: bool

    @property
    def n(self) -> int:
        """Continuations of each prompt."""
        return self.request.n or 1


async def ask(request: CompletionRequest, model: ServedModel, visit: Visit, *, most: int) -> Continuation:
    """Begin the answer; `most`: completions that one request may ask for. Raises ApiError."""
    require_few(request, most)
    prompts = await read_prompts(
        request.prompt, model, start=request.add_special_tokens is not False, most=most // (request.n or 1)
    )
    for prompt in prompts:
        require_room(len(prompt.ids), model, param="prompt")
    judges = bool(request.echo) and request.logprobs is not None
    params = _params(request, model, judges)
    head = Head.new("cmpl", model.id)
    requests = [
        Request(id=f"{head.id}-{place}", prompt_ids=prompt.ids, params=params) for place, prompt in enumerate(prompts)
    ]
    return Continuation(
        head=head,
        model=model,
        request=request,
        prompts=prompts,
        asked=await Asked.submit(model, requests, visit),
        judges=judges,
        writes=request.max_tokens != 0,
    )


def _params(request: CompletionRequest, model: ServedModel, judges: bool) -> SamplingParams:
    """Whoever judges a prompt with one token or none counts on exactly one after it, be it the end (lm-evaluation-harness)."""
    wanted = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    params = sampling_params(
        request,
        model,
        max_tokens=max(wanted, 1),
        logprobs=request.logprobs,
        prompt_logprobs=request.logprobs if judges else None,
        constraint=constraint_of(request),
        beams=request.best_of if request.use_beam_search else None,
    )
    return dataclasses.replace(params, stop_ids=(), stop=()) if judges and wanted <= 1 else params


async def whole(going: Continuation) -> Completion:
    """The answer in one piece."""
    answers = await going.asked.answers()
    choices = [
        _choice(going, place * going.n + output.index, prompt, answer, output)
        for place, (prompt, answer) in enumerate(zip(going.prompts, answers, strict=True))
        for output in answer.outputs
    ]
    usage = usage_of(answers)
    if not going.writes:
        usage = usage_object([[dataclasses.replace(one.outputs[0].usage, completion_tokens=0)] for one in answers])
    return Completion(**_start(going), choices=choices, usage=usage)


def _choice(going: Continuation, index: int, prompt: Prompt, answer: Answer, output: Output) -> TextChoice:
    tokenizer, echo = going.model.tokenizer, bool(going.request.echo)
    logprobs = None
    if going.request.logprobs is not None:
        listed = _Lister(tokenizer, () if going.judges else prompt.ids)
        if going.judges:
            listed.add_prompt(prompt, answer.prompt)
        if going.writes:
            for number, logprob, top in zip(output.ids, output.logprobs, output.top_logprobs, strict=True):
                listed.add(number, logprob, top)
        logprobs = listed.take()
    return {
        "index": index,
        "text": (prompt.text if echo else "") + (output.text if going.writes else ""),
        "logprobs": logprobs,
        "finish_reason": _ended(going, output.finish_reason == "stop", output.ids),
    }


def _ended(going: Continuation, stopped: bool, ids: Sequence[int]) -> Literal["stop", "length"]:
    at_end = going.writes and bool(ids) and ids[-1] in going.model.tokenizer.stop_ids
    return "stop" if stopped or at_end else "length"


async def chunks(going: Continuation) -> AsyncIterator[str]:
    """The answer as server-sent events, but for the last."""
    options = going.request.stream_options
    counts = bool(options and options.include_usage)
    usages: list[list[Usage]] = [[] for _ in going.prompts]
    listers = [
        _Lister(going.model.tokenizer, () if going.judges else prompt.ids)
        for prompt in going.prompts
        for _ in range(going.n)
    ]
    last: dict[int, int] = {}
    if going.request.echo and not going.judges:
        for index in range(len(listers)):
            yield _chunk(going, index, going.prompts[index // going.n].text, counts=counts)
    async for place, event in going.asked:
        index = place * going.n + getattr(event, "index", 0)
        match event:
            case PromptEvent(tokens=judged):
                for twin in range(index, index + going.n):
                    listers[twin].add_prompt(going.prompts[place], judged)
                    yield _chunk(going, twin, going.prompts[place].text, listers[twin].take(), counts=counts)
            case TokenEvent():
                last[index] = event.token_id
                if not going.writes:
                    continue
                logprobs = None
                if event.logprob is not None:
                    listers[index].add(event.token_id, event.logprob, event.top_logprobs or ())
                    logprobs = listers[index].take()
                if event.text or logprobs:
                    yield _chunk(going, index, event.text, logprobs, counts=counts)
            case FinishEvent():
                require_finished(event)
                written = event.usage.completion_tokens if going.writes else 0
                usages[place].append(dataclasses.replace(event.usage, completion_tokens=written))
                reason = _ended(going, event.reason == "stop", [last[index]] if index in last else [])
                yield _chunk(going, index, event.text if going.writes else "", None, reason, counts=counts)
    if counts:
        yield sse({**_start(going), "choices": [], "usage": usage_object(usages)})


def _chunk(
    going: Continuation,
    index: int,
    text: str,
    logprobs: TextLogprobs | None = None,
    reason: str | None = None,
    *,
    counts: bool,
) -> str:
    choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
    return sse({**_start(going), "choices": [choice], **({"usage": None} if counts else {})})


def _start(going: Continuation) -> Any:
    return {
        "id": going.head.id,
        "object": "text_completion",
        "created": going.head.created,
        "model": going.head.model,
        "system_fingerprint": FINGERPRINT,
    }


class _Lister:
    """OpenAI's older form of log-probabilities: columns, and where in the text each token begins."""

    def __init__(self, tokenizer: TokenizerLike, after: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(tokenizer, after)
        self._at = 0
        self._columns: TextLogprobs = _columns()

    def add(self, number: int, logprob: float | None, top: Sequence[Scored]) -> None:
        """One token. The alternatives hold the token itself too, as OpenAI's do."""
        name = token_text(self._tokenizer, number)
        self._columns["tokens"].append(name)
        self._columns["token_logprobs"].append(None if logprob is None else finite(logprob))
        likeliest = {token_text(self._tokenizer, one.id): finite(one.logprob) for one in top}
        own = {} if logprob is None else {name: finite(logprob)}
        self._columns["top_logprobs"].append(None if logprob is None else {**likeliest, **own})
        self._columns["text_offset"].append(self._at)
        self._at += len(self._decoder.push(number))

    def add_prompt(self, prompt: Prompt, judged: Sequence[PromptToken | None] | None) -> None:
        """All tokens of a prompt."""
        for number, token in zip(prompt.ids, judged or (), strict=True):
            self.add(number, None if token is None else token.logprob, () if token is None else token.top)

    def take(self) -> TextLogprobs:
        """What was added since the last time."""
        taken, self._columns = self._columns, _columns()
        return taken


def _columns() -> TextLogprobs:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
