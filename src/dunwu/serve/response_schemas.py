"""What `POST /v1/responses` may be asked: the same as a chat, in OpenAI's newer form."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, JsonValue, Tag, model_validator

from dunwu.infer.sampling import MOST_LOGPROBS
from dunwu.serve.schemas import (
    MOST_MESSAGES,
    MOST_TOKENS,
    MOST_TOOLS,
    FunctionTool,
    Harmless,
    Many,
    ModelId,
    Parts,
    Strict,
    ToolName,
)

LOGPROBS = "message.output_text.logprobs"
Status = Literal["in_progress", "completed", "incomplete", "failed"]


class MessageItem(Strict):
    """A turn."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Parts
    id: str | None = None
    status: Status | None = None


class CallItem(Strict):
    """A call that the assistant made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None


class CallOutputItem(Strict):
    """What the tool gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | Parts
    id: str | None = None
    status: Status | None = None


class ReasoningItem(Strict):
    """Thoughts of another model: passed over."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: JsonValue = None
    content: JsonValue = None
    encrypted_content: str | None = None
    status: Status | None = None


def _kind(item: Any) -> str:
    kind = item.get("type", "message") if isinstance(item, Mapping) else getattr(item, "type", "message")
    return kind if isinstance(kind, str) else ""


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[CallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_kind),
]


class ResponseTool(FunctionTool):
    """A function that the model may call."""

    type: Literal["function"]


class ChosenTool(Strict):
    """The one function that must be called."""

    type: Literal["function"]
    name: ToolName


class TextFormat(Strict):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, JsonValue] | None = Field(None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _require_schema(self) -> "TextFormat":
        if self.type == "json_schema" and self.schema_ is None:
            raise ValueError('type "json_schema" needs schema; give it, or use type "json_object"')
        return self


class TextSettings(Strict):
    """`verbosity` is passed over."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ResponseRequest(Harmless):
    """`POST /v1/responses`. `previous_response_id` goes on with an answer that this server still remembers."""

    model: ModelId
    input: str | Annotated[Many[InputItem], Field(min_length=1, max_length=MOST_MESSAGES)]
    instructions: str | None = None
    previous_response_id: Annotated[str, Field(max_length=128)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MOST_TOKENS)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    include: Many[str] | None = None
    tools: Annotated[Many[ResponseTool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    text: TextSettings | None = None
    stream: bool | None = None
    stream_options: JsonValue = None
    reasoning: JsonValue = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    conversation: None = None
    prompt: None = None
