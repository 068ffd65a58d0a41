"""`POST /v1/responses`: a chat in OpenAI's newer form. The question is translated into a chat, the answer into items."""

import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dunwu.chat.calls import CallDelta
from dunwu.infer.events import FinishEvent, TokenEvent
from dunwu.serve import chat_completions
from dunwu.serve.answers import chunk_logprobs, ended, usage_object
from dunwu.serve.chat_completions import Said, Talk
from dunwu.serve.errors import ApiError
from dunwu.serve.memory import Kept, Memory
from dunwu.serve.models import ServedModel
from dunwu.serve.response_schemas import (
    LOGPROBS,
    CallItem,
    CallOutputItem,
    InputItem,
    MessageItem,
    ResponseRequest,
    TextFormat,
)
from dunwu.serve.schemas import (
    CalledFunction,
    ChatMessage,
    ChatRequest,
    FunctionTool,
    JsonSchema,
    NamedFunction,
    NamedTool,
    ResponseFormat,
    Tool,
    ToolCallPart,
    ToolChoice,
)
from dunwu.serve.streams import sse
from dunwu.serve.visit import Visit

Object = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Going:
    """An answer under way. `turns`: the conversation that it answers, without instructions."""

    talk: Talk
    request: ResponseRequest
    turns: tuple[ChatMessage, ...]
    memory: Memory
    owner: str


async def ask(request: ResponseRequest, model: ServedModel, visit: Visit, memory: Memory) -> Going:
    """Begin the answer. Raises ApiError."""
    before = memory.get(request.previous_response_id, visit.key).turns if request.previous_response_id else ()
    turns = (*before, *_turns(request.input))
    talk = await chat_completions.ask(_chat_request(request, turns), model, visit)
    return Going(talk=talk, request=request, turns=turns, memory=memory, owner=visit.key)


def _chat_request(request: ResponseRequest, turns: Sequence[ChatMessage]) -> ChatRequest:
    told = [ChatMessage(role="system", content=request.instructions)] if request.instructions else []
    if not (told or turns):
        raise ApiError(
            400, "input holds nothing to answer; give a text or a message", param="input", code="invalid_value"
        )
    return ChatRequest(
        model=request.model,
        messages=[*told, *turns],
        max_completion_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        seed=request.seed,
        logprobs=_wants_logprobs(request),
        top_logprobs=request.top_logprobs if _wants_logprobs(request) else None,
        tools=[Tool(type="function", function=_function(tool)) for tool in request.tools or ()] or None,
        tool_choice=_choice(request),
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=_format(request.text.format) if request.text and request.text.format else None,
    )


def _wants_logprobs(request: ResponseRequest) -> bool:
    return LOGPROBS in (request.include or ()) or bool(request.top_logprobs)


def _function(tool: FunctionTool) -> FunctionTool:
    return FunctionTool(name=tool.name, description=tool.description, parameters=tool.parameters)


def _choice(request: ResponseRequest) -> ToolChoice | None:
    choice = request.tool_choice
    if choice is None or isinstance(choice, str):
        return choice
    return NamedTool(type="function", function=NamedFunction(name=choice.name))


def _format(form: TextFormat) -> ResponseFormat:
    schema = None if form.schema_ is None else JsonSchema.model_validate({"schema": form.schema_})
    return ResponseFormat(type=form.type, json_schema=schema)


def _turns(given: str | Sequence[InputItem]) -> Iterator[ChatMessage]:
    """Items as messages; calls join the assistant's turn before them."""
    if isinstance(given, str):
        yield ChatMessage(role="user", content=given)
        return
    said: ChatMessage | None = None
    for item in given:
        if isinstance(item, CallItem):
            call = ToolCallPart(id=item.call_id, function=CalledFunction(name=item.name, arguments=item.arguments))
            before = said or ChatMessage(role="assistant")
            said = before.model_copy(update={"tool_calls": [*(before.tool_calls or ()), call]})
            continue
        if said:
            yield said
        said = None
        if isinstance(item, CallOutputItem):
            yield ChatMessage(role="tool", content=item.output, tool_call_id=item.call_id)
        elif isinstance(item, MessageItem):
            message = ChatMessage(role=item.role, content=item.content)
            if item.role == "assistant":
                said = message
            else:
                yield message
    if said:
        yield said


async def whole(going: Going) -> Object:
    """The answer in one piece."""
    writer = _Writer(going)
    async for said in chat_completions.spoken(going.talk):
        for _ in writer.hear(said):
            pass
    return writer.finished()


async def events(going: Going) -> AsyncIterator[str]:
    """The answer as server-sent events, each with its name."""
    writer = _Writer(going)
    for event in writer.begin():
        yield _named(event)
    try:
        async for said in chat_completions.spoken(going.talk):
            for event in writer.hear(said):
                yield _named(event)
    except ApiError as error:
        yield _named(writer.fail(error))
        return
    yield _named(writer.end())


def _named(event: Mapping[str, Any]) -> str:
    return f"event: {event['type']}\n{sse(event)}"


class _Writer:
    """Puts items together from what is said, and tells each step."""

    def __init__(self, going: Going) -> None:
        self._going = going
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._items: list[Object] = []
        self._open = False  # the last item is being written
        self._end: FinishEvent | None = None
        self._status = "in_progress"
        self._error: Object | None = None
        self._count = 0

    def begin(self) -> Iterator[Object]:
        yield self._event("response.created", response=self.response())
        yield self._event("response.in_progress", response=self.response())

    def hear(self, said: Said) -> Iterator[Object]:
        """What follows from a token, or from the end."""
        listed = self._logprobs(said.event)
        for piece in said.pieces:
            if isinstance(piece, CallDelta):
                yield from self._call(piece)
            else:
                yield from self._text(piece, listed)
                listed = []
        if listed and self._open and self._items[-1]["type"] == "message":
            yield from self._text("", listed)
        if isinstance(said.event, FinishEvent):
            self._end = said.event
            self._status = "completed" if ended(said.event.reason) == "stop" else "incomplete"
            yield from self._close(self._status)

    def end(self) -> Object:
        """The last event."""
        return self._event(f"response.{self._status}", response=self.finished())

    def fail(self, error: ApiError) -> Object:
        """The last event where the model failed."""
        self._status = "failed"
        self._error = {"code": "server_error", "message": error.message}
        return self._event("response.failed", response=self.response())

    def finished(self) -> Object:
        """The whole answer, which the server now remembers."""
        response = self.response()
        going = self._going
        if going.request.store is not False:
            turns = (*going.turns, self._turn())
            going.memory.put(self._id, Kept(owner=going.owner, turns=turns, response=response))
        return response

    def response(self) -> Object:
        """As it stands."""
        request = self._going.request
        usage = None if self._end is None else usage_object([[self._end.usage]])
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if self._status == "completed" else None,
            "status": self._status,
            "error": self._error,
            "incomplete_details": {"reason": "max_output_tokens"} if self._status == "incomplete" else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "model": self._going.talk.head.model,
            "output": [dict(item) for item in self._items],
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": request.previous_response_id,
            "reasoning": {"effort": None, "summary": None},
            "store": request.store is not False,
            "temperature": 1.0 if request.temperature is None else request.temperature,
            "text": {"format": _shown_format(request)},
            "tool_choice": _shown_choice(request),
            "tools": [tool.model_dump() for tool in request.tools or ()],
            "top_logprobs": request.top_logprobs or 0,
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "truncation": "disabled",
            "user": request.user,
            "metadata": request.metadata or {},
            "usage": usage
            and {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": {**usage["prompt_tokens_details"], "cache_write_tokens": 0},
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"],
            },
        }

    def _logprobs(self, event: TokenEvent | FinishEvent) -> list[Any]:
        logprobs = chunk_logprobs(self._going.talk.model.tokenizer, event) if isinstance(event, TokenEvent) else None
        return [*(logprobs["content"] or ())] if logprobs else []

    def _turn(self) -> ChatMessage:
        """The answer as a turn of the conversation."""
        texts = [part["text"] for item in self._items if item["type"] == "message" for part in item["content"]]
        calls = [
            ToolCallPart(id=item["call_id"], function=CalledFunction(name=item["name"], arguments=item["arguments"]))
            for item in self._items
            if item["type"] == "function_call"
        ]
        return ChatMessage(role="assistant", content="".join(texts), tool_calls=calls or None)

    def _text(self, text: str, logprobs: list[Any]) -> Iterator[Object]:
        if not self._open or self._items[-1]["type"] != "message":
            yield from self._close("completed")
            yield from self._add(
                {
                    "id": f"msg_{uuid.uuid4().hex}",
                    "type": "message",
                    "status": "in_progress",
                    "role": "assistant",
                    "content": [],
                }
            )
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            self._items[-1]["content"] = [part]
            yield self._item_event("response.content_part.added", content_index=0, part=dict(part))
        part = self._items[-1]["content"][0]
        part["text"] += text
        part["logprobs"] += logprobs
        yield self._item_event("response.output_text.delta", content_index=0, delta=text, logprobs=logprobs)

    def _call(self, piece: CallDelta) -> Iterator[Object]:
        if piece.id is not None:
            yield from self._close("completed")
            facts = {"id": f"fc_{uuid.uuid4().hex}", "type": "function_call", "status": "in_progress"}
            yield from self._add({**facts, "call_id": piece.id, "name": piece.name, "arguments": ""})
        self._items[-1]["arguments"] += piece.arguments
        if piece.arguments:
            yield self._item_event("response.function_call_arguments.delta", delta=piece.arguments)

    def _add(self, item: Object) -> Iterator[Object]:
        self._items.append(item)
        self._open = True
        yield self._event("response.output_item.added", output_index=len(self._items) - 1, item=dict(item))

    def _close(self, status: str) -> Iterator[Object]:
        if not self._open:
            return
        self._open = False
        item = self._items[-1]
        item["status"] = status
        if item["type"] == "message":
            part = item["content"][0]
            facts = {"text": part["text"], "logprobs": part["logprobs"]}
            yield self._item_event("response.output_text.done", content_index=0, **facts)
            yield self._item_event("response.content_part.done", content_index=0, part=part)
        else:
            facts = {"arguments": item["arguments"], "name": item["name"]}
            yield self._item_event("response.function_call_arguments.done", **facts)
        yield self._event("response.output_item.done", output_index=len(self._items) - 1, item=item)

    def _item_event(self, kind: str, **facts: Any) -> Object:
        return self._event(kind, item_id=self._items[-1]["id"], output_index=len(self._items) - 1, **facts)

    def _event(self, kind: str, **facts: Any) -> Object:
        self._count += 1
        return {"type": kind, "sequence_number": self._count - 1, **facts}


def _shown_format(request: ResponseRequest) -> Object:
    form = request.text.format if request.text else None
    return {"type": "text"} if form is None else form.model_dump(by_alias=True, exclude_none=True)


def _shown_choice(request: ResponseRequest) -> Any:
    choice = request.tool_choice
    if choice is None:
        return "auto"
    return choice if isinstance(choice, str) else choice.model_dump()
