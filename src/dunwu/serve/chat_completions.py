"""`POST /v1/chat/completions`."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from dunwu.chat.calls import CallParser, Piece, gathered
from dunwu.chat.forms import CallForm, call_form, tool_constraint
from dunwu.core.errors import RecipeError
from dunwu.core.records import ToolCall
from dunwu.infer.constrain import Constraint
from dunwu.infer.events import FinishEvent, Output, TokenEvent, Usage
from dunwu.infer.sequence import Request
from dunwu.serve.answers import Head, chat_logprobs, chunk_logprobs, ended, usage_object, usage_of
from dunwu.serve.asking import constraint_of, require_room, sampling_params
from dunwu.serve.chat_writing import ChunkWriter, completion, delta_of, message
from dunwu.serve.conversation import messages_of, prompt_ids
from dunwu.serve.errors import ApiError
from dunwu.serve.models import ServedModel
from dunwu.serve.objects import ChatChoice, ChatCompletion, FinishReason
from dunwu.serve.schemas import ChatRequest
from dunwu.serve.streams import Asked, require_finished
from dunwu.serve.visit import Visit

Tool = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """An answer under way. `form`: how this model writes calls of `tools`; None where there are none."""

    head: Head
    model: ServedModel
    request: ChatRequest
    asked: Asked
    form: CallForm | None
    tools: tuple[Tool, ...]

    def parser(self) -> CallParser | None:
        """Finds calls in one of the answers."""
        return None if self.form is None else CallParser(self.form, self.tools)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one of `n` answers just said. `event`: the token that it came with, or the end; None for what ends before it."""

    index: int
    pieces: tuple[Piece, ...]
    event: TokenEvent | FinishEvent
    called: bool


async def ask(request: ChatRequest, model: ServedModel, visit: Visit) -> Talk:
    """Begin the answer. Raises ApiError."""
    choice = request.tool_choice or ("auto" if request.tools else "none")
    tools = () if choice == "none" else tuple(tool.model_dump(exclude_none=True) for tool in request.tools or ())
    form = call_form(model.tokenizer) if choice != "none" else None
    ids = await prompt_ids(model, messages_of(request.messages), tools=tools, settings=request.chat_template_kwargs)
    require_room(len(ids), model, param="messages")
    params = sampling_params(
        request,
        model,
        max_tokens=request.max_completion_tokens or request.max_tokens,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        constraint=_constraint(request, tools, form),
    )
    head = Head.new("chatcmpl", model.id)
    asked = await Asked.submit(model, [Request(id=head.id, prompt_ids=tuple(ids), params=params)], visit)
    return Talk(head=head, model=model, request=request, asked=asked, form=form, tools=tools)


def _constraint(request: ChatRequest, tools: tuple[Tool, ...], form: CallForm | None) -> Constraint | None:
    """Calls that must come stand above the form of an answer; calls that may come and a form exclude each other."""
    wanted = constraint_of(request)
    if form is None:
        return wanted
    choice = request.tool_choice or "auto"
    if wanted is not None and choice == "auto":
        raise ApiError(
            400,
            "an answer that may call tools cannot be held to a form too; give tool_choice 'none' or 'required', or no "
            "response_format",
            param="response_format",
            code="invalid_value",
        )
    named = choice if isinstance(choice, str) else choice.model_dump()
    try:
        return tool_constraint(tools, named, form, parallel=request.parallel_tool_calls is not False)
    except RecipeError as error:
        raise ApiError(400, str(error), param="tool_choice", code="invalid_value") from error


async def whole(talk: Talk) -> ChatCompletion:
    """The answer in one piece."""
    answers = await talk.asked.answers()
    return completion(talk.head, [_choice(talk, output) for output in answers[0].outputs], usage_of(answers))


def _choice(talk: Talk, output: Output) -> ChatChoice:
    text, calls = parsed(talk, output.text)
    return {
        "index": output.index,
        "message": message(text, calls),
        "logprobs": chat_logprobs(talk.model.tokenizer, output) if talk.request.logprobs else None,
        "finish_reason": _ended(ended(output.finish_reason), bool(calls)),
    }


def parsed(talk: Talk, text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """What an answer says, and the calls in it."""
    parser = talk.parser()
    return (text, ()) if parser is None else gathered([*parser.push(text), *parser.finish()])


def _ended(reason: FinishReason, called: bool) -> FinishReason:
    return "tool_calls" if called and reason == "stop" else reason


async def spoken(talk: Talk) -> AsyncIterator[Said]:
    """The answers as they are written, calls taken apart. Raises ApiError when one fails."""
    parsers = [talk.parser() for _ in range(talk.request.n or 1)]
    async for _, event in talk.asked:
        if not isinstance(event, TokenEvent | FinishEvent):
            continue
        if isinstance(event, FinishEvent):
            require_finished(event)
        pieces, called = _pieces(parsers[event.index], event)
        yield Said(index=event.index, pieces=pieces, event=event, called=called)


def _pieces(parser: CallParser | None, event: TokenEvent | FinishEvent) -> tuple[tuple[Piece, ...], bool]:
    if parser is None:
        return (event.text,) if event.text else (), False
    pieces = parser.push(event.text)
    if isinstance(event, FinishEvent):
        pieces += parser.finish()
    return tuple(pieces), parser.calls > 0


async def chunks(talk: Talk) -> AsyncIterator[str]:
    """The answer as server-sent events, but for the last."""
    options = talk.request.stream_options
    writer = ChunkWriter(talk.head, counts=bool(options and options.include_usage))
    usages: list[Usage] = []
    for index in range(talk.request.n or 1):
        yield writer.begin(index)
    async for said in spoken(talk):
        logprobs = chunk_logprobs(talk.model.tokenizer, said.event) if isinstance(said.event, TokenEvent) else None
        for piece in said.pieces:
            yield writer.chunk(said.index, delta_of(piece), logprobs)
            logprobs = None
        if logprobs:
            yield writer.chunk(said.index, {"content": ""}, logprobs)
        if isinstance(said.event, FinishEvent):
            usages.append(said.event.usage)
            yield writer.chunk(said.index, {}, finish_reason=_ended(ended(said.event.reason), said.called))
    if writer.counts:
        yield writer.usage(usage_object([usages]))
