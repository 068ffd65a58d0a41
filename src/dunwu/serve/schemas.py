"""What may be asked, field by field. Numbers are finite, types are strict, and a field that nobody knows is an error.

Names are OpenAI's; those that OpenAI has not are vLLM's, so that clients of either find what they know. Fields of clients that
change nothing here (`user`, `metadata`, `store`, …) are read and passed over. What would change the answer and can't be had is
refused with a reason, never ignored.
"""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator
from pydantic_core import PydanticCustomError

from dunwu.infer.sampling import MOST_BIAS, MOST_LOGPROBS

MOST_CHOICES = 128  # OpenAI's limit of n
MOST_STOPS = 16
MOST_TOOLS = 128  # OpenAI's limit
MOST_MESSAGES = 4096
MOST_PARTS = 4096
MOST_BIASED = 1024
MOST_PAIRS, LONGEST_NAME, LONGEST_FACT = 16, 64, 512  # OpenAI's limits of metadata, the last two in characters
MOST_TOKENS = 1 << 24

T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list that is refused at its first fault: a complaint about each of a million entries would fill the memory."""

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
Ids = Many[Annotated[int, Field(ge=0, lt=1 << 31)]]
Count = Annotated[int, Field(ge=0, le=MOST_TOKENS)]
ModelId = Annotated[str, Field(min_length=1, max_length=512, description="An id of `/v1/models`.")]
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class Strict(BaseModel):
    """No guessing of types, no NaN, no unknown fields but those that are null."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _require_known(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for name, value in data.items():
            if name not in known and value is not None:
                near = difflib.get_close_matches(str(name)[:80], known, n=1)
                remedy = f"did you mean {near[0]}?" if near else "leave it out"
                raise PydanticCustomError("unknown_field", "{remedy}", {"field": str(name)[:80], "remedy": remedy})
        return {name: value for name, value in data.items() if name in known}


class TextPart(Strict):
    """A piece of a message. These models read text alone: no images, no sound, no files."""

    type: Literal["text", "input_text", "output_text", "refusal"]
    text: str = ""
    refusal: str | None = None
    annotations: JsonValue = None
    logprobs: JsonValue = None
    cache_control: JsonValue = None

    @model_validator(mode="before")
    @classmethod
    def _require_text(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, Mapping) else "text"
        if isinstance(kind, str) and "text" not in kind and kind != "refusal":
            raise PydanticCustomError("text_only", "these models read text alone; send parts of type 'text'")
        return data

    @property
    def said(self) -> str:
        """The words."""
        return self.refusal or "" if self.type == "refusal" else self.text


Parts = Annotated[Many[TextPart], Field(max_length=MOST_PARTS)]
Content = str | Parts | None


class CalledFunction(Strict):
    """`arguments`: JSON text, as the model wrote it."""

    name: str
    arguments: str


class ToolCallPart(Strict):
    """A call that the assistant made."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class ChatMessage(Strict):
    """One turn. `reasoning_content`, `annotations`, `audio` and `function_call` are what some clients send back of an answer."""

    role: Role
    content: Content = None
    name: str | None = None
    tool_calls: Many[ToolCallPart] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    annotations: JsonValue = None
    audio: JsonValue = None
    function_call: None = None

    @property
    def said(self) -> str:
        """The words of the turn."""
        if isinstance(self.content, list):
            return "".join(part.said for part in self.content)
        return self.content or self.refusal or ""


class FunctionTool(Strict):
    """What the model may call. `parameters`: a JSON schema of an object."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool in chat completions."""

    type: Literal["function"]
    function: FunctionTool


class NamedFunction(Strict):
    """The one function that must be called."""

    name: str


class NamedTool(Strict):
    """The one tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class JsonSchema(Strict):
    """`schema`: what the answer must be valid under. `strict` is always on here: the answer is written inside the schema."""

    name: str = "answer"
    description: str | None = None
    schema_: dict[str, JsonValue] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _require_schema(self) -> "ResponseFormat":
        if self.type == "json_schema" and (self.json_schema is None or self.json_schema.schema_ is None):
            raise ValueError('type "json_schema" needs json_schema.schema; give it, or use type "json_object"')
        return self


class StructuredOutputs(Strict):
    """vLLM's form: exactly one of these."""

    json_: dict[str, JsonValue] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: Many[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class StreamOptions(Strict):
    """`include_usage`: a last chunk says how many tokens it took."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class Harmless(Strict):
    """What clients send for books that are kept elsewhere."""

    user: str | None = None
    metadata: dict[str, Annotated[str, Field(max_length=LONGEST_FACT)]] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    request_id: str | None = None

    @field_validator("metadata", mode="before")
    @classmethod
    def _require_little(cls, metadata: Any) -> Any:
        """Before its entries are looked at: each that is wrong would be complained about."""
        if isinstance(metadata, Mapping):
            if len(metadata) > MOST_PAIRS:
                raise ValueError(
                    f"{len(metadata)} pairs are more than the {MOST_PAIRS} that may be given; leave some out"
                )
            if any(len(str(name)) > LONGEST_NAME for name in metadata):
                raise ValueError(f"a name has more than {LONGEST_NAME} characters; shorten it")
        return metadata


class Sampling(Harmless):
    """How the answer is chosen and where it ends; the same for chats and for plain text."""

    model: ModelId
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MOST_TOKENS)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-MOST_BIAS, le=MOST_BIAS)]] | None = None
    stop: str | Annotated[Many[str], Field(max_length=MOST_STOPS)] | None = None
    stop_token_ids: Annotated[Ids, Field(max_length=1024)] | None = None
    min_tokens: Count | None = None
    ignore_eos: bool | None = None
    use_beam_search: bool | None = None  # vLLM's: with n beams, and the n likeliest answers that they find
    length_penalty: Annotated[float, Field(ge=-100, le=100)] | None = None
    early_stopping: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, JsonValue] | str | None = None
    guided_regex: str | None = None
    guided_choice: Many[str] | None = None
    guided_grammar: str | None = None

    @field_validator("stop")
    @classmethod
    def _require_stops(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if stop is not None and any(not 0 < len(text) <= 1000 for text in ([stop] if isinstance(stop, str) else stop)):
            raise ValueError("each stop string must have 1 to 1000 characters; leave the empty one out")
        return stop

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _require_few(cls, bias: Any) -> Any:
        """Before its entries are looked at: each that is wrong would be complained about."""
        if isinstance(bias, Mapping) and len(bias) > MOST_BIASED:
            raise ValueError(f"{len(bias)} entries are more than the {MOST_BIASED} that may be given; leave some out")
        return bias

    @field_validator("logit_bias")
    @classmethod
    def _require_ids(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        wrong = next((key for key in bias or {} if not (key.isascii() and key.isdigit() and len(key) < 10)), None)
        if wrong is not None:
            raise ValueError(f'{wrong[:40]!r} is no token id; keys are ids of the model\'s tokenizer, such as "50"')
        return bias

    @property
    def stops(self) -> tuple[str, ...]:
        """All stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[Many[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    tools: Annotated[Many[Tool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, JsonValue] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    modalities: Many[Literal["text"]] | None = None
    prediction: JsonValue = None
    functions: None = None
    function_call: None = None
    audio: None = None
    web_search_options: None = None

    @model_validator(mode="after")
    def _require_sense(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream=true")
        ends_open = self.messages[-1].role == "assistant" and not self.messages[-1].tool_calls
        if ends_open != bool(self.continue_final_message) and self.continue_final_message is not None:
            raise ValueError(
                "an assistant's turn at the end is continued, and no other; leave continue_final_message out"
            )
        if ends_open == bool(self.add_generation_prompt) and self.add_generation_prompt is not None:
            raise ValueError("a turn of the assistant follows any but its own; leave add_generation_prompt out")
        return self


Prompt = str | Many[str] | Ids | Many[Ids]


class CompletionRequest(Sampling):
    """`POST /v1/completions`. `max_tokens` 0 with `echo` judges the prompt and writes nothing."""

    prompt: Prompt
    max_tokens: Count | None = 16
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    add_special_tokens: bool | None = None
    suffix: None = None

    @model_validator(mode="after")
    def _require_sense(self) -> "CompletionRequest":
        if self.best_of is not None and self.best_of != (self.n or 1) and not self.use_beam_search:
            raise ValueError(f"best_of={self.best_of} must equal n={self.n or 1}: all that is written is returned")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens=0 writes nothing; give echo=true to have the prompt judged, or at least 1")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream=true")
        return self


def listed(prompt: Prompt) -> list[str] | list[list[int]]:
    """One or many, as a list."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and isinstance(prompt[0], int):
        return [cast("list[int]", prompt)]
    return cast("list[str] | list[list[int]]", prompt)


class EmbeddingRequest(Harmless):
    """`POST /v1/embeddings`."""

    model: ModelId
    input: Prompt
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    add_special_tokens: bool | None = None


class TokenizeRequest(Strict):
    """`POST /tokenize`: a text, or a conversation as the model's template writes it."""

    model: ModelId
    prompt: str | None = None
    messages: Annotated[Many[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)] | None = None
    tools: Annotated[Many[Tool], Field(max_length=MOST_TOOLS)] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    chat_template_kwargs: dict[str, JsonValue] | None = None

    @model_validator(mode="after")
    def _require_one(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class DetokenizeRequest(Strict):
    """`POST /detokenize`."""

    model: ModelId
    tokens: Ids
    skip_special_tokens: bool | None = None
