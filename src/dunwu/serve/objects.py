"""Answers in OpenAI's form, as they are sent."""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

FinishReason = Literal["stop", "length", "tool_calls"]


class PromptDetails(TypedDict):
    """`cached_tokens`: those of the prompt that were found in the cache and not read again."""

    cached_tokens: int


class UsageObject(TypedDict):
    """Tokens that an answer took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class TopLogprob(TypedDict):
    """A token that might have stood there. `bytes`: UTF-8; a token may be part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token and its likeliest alternatives."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """Natural logarithms of the model's own probabilities, before temperature and filters."""

    content: list[TokenLogprob] | None
    refusal: None


class FunctionCall(TypedDict):
    """`arguments`: JSON text."""

    name: str
    arguments: str


class ToolCallObject(TypedDict):
    """A call that the model asks for."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class AnswerMessage(TypedDict):
    """What the model says."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCallObject]]
    reasoning_content: NotRequired[str]  # what a strategy thought before the answer


class ChatChoice(TypedDict):
    """One of `n` answers."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(TypedDict):
    """The answer to `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageObject


class FunctionDelta(TypedDict, total=False):
    """A piece of a call: the name comes once, the arguments in pieces."""

    name: str
    arguments: str


class ToolCallDelta(TypedDict):
    """A piece of call `index`."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class Delta(TypedDict, total=False):
    """What is new."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCallDelta]


class ChunkChoice(TypedDict):
    """What is new in one of `n` answers."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(TypedDict):
    """One event of a streamed chat completion."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: NotRequired[UsageObject | None]


class TextLogprobs(TypedDict):
    """`text_offset`: where in the text each token begins, in characters. None stands for the first token of a prompt."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(TypedDict):
    """One continuation."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(TypedDict):
    """The answer to `POST /v1/completions`, and each event of a streamed one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: NotRequired[UsageObject | None]


class ModelObject(TypedDict):
    """A model. What follows `owned_by` is ours: `stage` is the build's stage that it came from ("" for a finished model),
    `parent` the model that it is a delta over, `max_model_len` the tokens it reads, known once it is loaded."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    stage: str
    parent: str | None
    loaded: bool
    instruction_tuned: bool | None
    system_prompt: str
    chat: bool | None
    max_model_len: int | None
    parameters: int | None


class ModelList(TypedDict):
    """All that is offered."""

    object: Literal["list"]
    data: list[ModelObject]


class Status(TypedDict):
    """`loading`, `ready` or `draining`."""

    status: str


class Tokenized(TypedDict):
    """`token_strs` and `token_bytes` on demand: each token for eyes, and as it is."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None
    token_bytes: NotRequired[list[list[int]]]


class Detokenized(TypedDict):
    """The text."""

    prompt: str


class Embedding(TypedDict):
    """`embedding`: numbers, or their float32, little-endian, in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(TypedDict):
    """The answer to `POST /v1/embeddings`."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class ResponseObject(TypedDict):
    """The answer to `POST /v1/responses`. `output`: messages and calls of functions, in the order in which they were written."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: dict[str, str] | None
    incomplete_details: dict[str, str] | None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, None]
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, str]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: dict[str, Any] | None
    user: str | None
    metadata: dict[str, Any]


class Forgotten(TypedDict):
    """The answer to `DELETE /v1/responses/ID`."""

    id: str
    object: Literal["response.deleted"]
    deleted: bool
