"""The HTTP application: routes, and every error in OpenAI's form."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from dunwu import __version__
from dunwu.serve import chat_completions, completions, embeddings, partners, responses, tokens
from dunwu.serve.asking import require_few
from dunwu.serve.complaints import refusal
from dunwu.serve.doors import LOOPBACK_NAMES
from dunwu.serve.errors import ApiError, ErrorBody
from dunwu.serve.gateway import RoutedShelf
from dunwu.serve.guard import Guard
from dunwu.serve.keys import Keyring
from dunwu.serve.limits import Gate, Limits
from dunwu.serve.logs import Log
from dunwu.serve.memory import Memory
from dunwu.serve.metrics import CONTENT_TYPE, Metrics
from dunwu.serve.models import Shelf
from dunwu.serve.objects import (
    ChatCompletion,
    Completion,
    Detokenized,
    Embeddings,
    Forgotten,
    ModelList,
    ModelObject,
    ResponseObject,
    Status,
    Tokenized,
)
from dunwu.serve.page import mount_page
from dunwu.serve.response_schemas import ResponseRequest
from dunwu.serve.schemas import ChatRequest, CompletionRequest, DetokenizeRequest, EmbeddingRequest, TokenizeRequest
from dunwu.serve.settings import ServeSettings
from dunwu.serve.source import ModelSource
from dunwu.serve.streams import with_errors
from dunwu.serve.visit import visit_of

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "The request cannot be answered as it is.",
        401: "No API key, or one that is not known.",
        403: "Not from this web page, or not under this name.",
        404: "No such model.",
        405: "No such method.",
        408: "The body did not come in time.",
        413: "The body is too large.",
        415: "The body must be application/json.",
        429: "Too much at once: see Retry-After.",
        500: "The model failed.",
        502: "A partner failed.",
        503: "Loading, or closing: see Retry-After.",
        504: "It took too long.",
    }.items()
}
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}, "description": "The answer."}}


def create_app(
    shelf: Shelf,
    settings: ServeSettings,
    *,
    log: Log | None = None,
    failed: Callable[[Exception], None] | None = None,
) -> FastAPI:
    """The application behind its guard. It reads the shelf's models once it runs and closes them at its end; `failed` hears of
    models that cannot be read. `log` None writes to standard error."""
    guard = _guard(shelf, settings, log or Log(prompts=settings.log_prompts))
    if isinstance(shelf, RoutedShelf):
        guard.metrics.watch(shelf)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        loading = asyncio.create_task(_load(shelf, failed))
        try:
            yield
        finally:
            loading.cancel()
            await shelf.close()
            guard.log.close()

    app = FastAPI(
        title="dunwu",
        version=__version__,
        description="An OpenAI-compatible API for models on this machine.",
        lifespan=lifespan,
        responses=ERRORS,
        openapi_url=None,  # its route would build the description in the event loop
        docs_url=None,  # its page would ask other hosts for scripts
        redoc_url=None,
    )
    app.state.shelf, app.state.settings = shelf, settings
    _add_errors(app, guard.gate)
    _add_status(app, shelf, guard.metrics)
    _add_description(app)
    _add_models(app, shelf)
    _add_generation(app, shelf, settings)
    _add_responses(app, shelf)
    _add_texts(app, shelf)
    mount_page(app)
    guard.stand_before(app)
    app.openapi = lambda: _described(app)
    return app


def _add_description(app: FastAPI) -> None:
    building = asyncio.Lock()

    @app.get("/openapi.json", include_in_schema=False)
    async def description() -> Response:
        async with building:  # seconds, the first time
            return JSONResponse(await asyncio.to_thread(app.openapi))


def _described(app: FastAPI) -> dict[str, Any]:
    """The published description. The framework adds a 422 to each path, which is a 400 here."""
    if app.openapi_schema is None:
        app.openapi_schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        for operations in app.openapi_schema["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            app.openapi_schema["components"]["schemas"].pop(name, None)
    return app.openapi_schema


def _guard(shelf: Shelf, settings: ServeSettings, log: Log) -> Guard:
    def waiting() -> int:
        stats = shelf.stats()
        return stats.waiting if stats else 0

    limits = Limits(
        requests_per_minute=settings.requests_per_minute or None,
        tokens_per_minute=settings.tokens_per_minute or None,
        concurrent_requests=settings.max_concurrency_per_key or None,
    )
    return Guard(
        log=log,
        gate=Gate(lambda: shelf.full, waiting),
        keyring=Keyring(
            settings.api_keys, settings.api_key, tell=lambda trouble: log.say("warning", "keys", message=trouble)
        ),
        limits=limits,
        hosts=None
        if settings.asks_for_keys and not settings.allowed_hosts
        else (*LOOPBACK_NAMES, *settings.allowed_hosts),
        origins=settings.allowed_origins,
        most_body_bytes=settings.max_body_bytes,
        request_timeout_s=settings.request_timeout_s or None,
    )


async def _load(shelf: Shelf, failed: Callable[[Exception], None] | None) -> None:
    try:
        await shelf.start()
    except Exception as error:  # a mistake of ours too: else the server would say for ever that it is loading
        if failed is None:
            raise
        failed(error)


def _add_status(app: FastAPI, shelf: Shelf, counts: Metrics) -> None:
    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> Status:
        """Whether the server runs at all."""
        return {"status": shelf.state}

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready")
    async def ready() -> Status:
        """Whether it answers now: 503 while models are read and while it closes."""
        shelf.require_open()
        return {"status": shelf.state}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counts, in Prometheus' text form."""
        return Response(counts.text(shelf.stats()), media_type=CONTENT_TYPE)


def _add_models(app: FastAPI, shelf: Shelf) -> None:
    @app.get("/v1/models")
    async def models() -> ModelList:
        """All models that are offered."""
        return {"object": "list", "data": [_model_object(shelf, source) for source in shelf.offered.values()]}

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> ModelObject:
        """One of them."""
        return _model_object(shelf, shelf.offer(model))


def _model_object(shelf: Shelf, source: ModelSource) -> ModelObject:
    loaded = shelf.found(source.id)
    return {
        "id": source.id,
        "object": "model",
        "created": source.created,
        "owned_by": "dunwu",
        "stage": source.stage,
        "parent": source.base or None,
        "loaded": loaded is not None and loaded.id == source.id,
        "instruction_tuned": source.instruction_tuned,
        "system_prompt": source.system_prompt,
        "chat": loaded.chats if loaded else None,
        "max_model_len": loaded.context_length if loaded else None,
        "parameters": loaded.parameters if loaded else None,
    }


def _add_generation(app: FastAPI, shelf: Shelf, settings: ServeSettings) -> None:
    @app.post("/v1/chat/completions", response_model=ChatCompletion, responses=STREAM)
    async def chat(asked: ChatRequest, http: HttpRequest) -> Response:
        """The next turn of a conversation. With `stream` as server-sent events, the last of which is `[DONE]`."""
        require_few(asked, settings.max_completions)
        visit = visit_of(http.scope)
        route = shelf.route(asked.model, visit.key)
        if route is not None:
            going = await partners.ask(asked, route, asked.model, visit)
            return (
                _streamed(http, with_errors(partners.chunks(going)))
                if asked.stream
                else JSONResponse(await partners.whole(going))
            )
        talk = await chat_completions.ask(asked, await shelf.free_model(asked.model), visit)
        if asked.stream:
            return _streamed(http, with_errors(chat_completions.chunks(talk)))
        return JSONResponse(await chat_completions.whole(talk))

    @app.post("/v1/completions", response_model=Completion, responses=STREAM)
    async def complete(asked: CompletionRequest, http: HttpRequest) -> Response:
        """What follows a text. With `stream` as server-sent events, the last of which is `[DONE]`."""
        model, visit = await shelf.free_model(asked.model), visit_of(http.scope)
        going = await completions.ask(asked, model, visit, most=settings.max_completions)
        if asked.stream:
            return _streamed(http, with_errors(completions.chunks(going)))
        return JSONResponse(await completions.whole(going))


def _add_responses(app: FastAPI, shelf: Shelf) -> None:
    memory = Memory()

    @app.post("/v1/responses", response_model=ResponseObject, responses=STREAM)
    async def respond(asked: ResponseRequest, http: HttpRequest) -> Response:
        """The next turn of a conversation, in OpenAI's newer form. With `stream` as server-sent events, each with its name."""
        going = await responses.ask(asked, await shelf.free_model(asked.model), visit_of(http.scope), memory)
        if asked.stream:
            return _streamed(http, responses.events(going))
        return JSONResponse(await responses.whole(going))

    @app.get("/v1/responses/{response_id}", response_model=ResponseObject)
    async def response(response_id: str, http: HttpRequest) -> Response:
        """An answer that this server still remembers."""
        return JSONResponse(memory.get(response_id, visit_of(http.scope).key).response)

    @app.delete("/v1/responses/{response_id}")
    async def forget(response_id: str, http: HttpRequest) -> Forgotten:
        """Forget an answer."""
        memory.forget(response_id, visit_of(http.scope).key)
        return {"id": response_id, "object": "response.deleted", "deleted": True}


def _add_texts(app: FastAPI, shelf: Shelf) -> None:
    @app.post("/v1/embeddings", response_model=Embeddings)
    async def embed(asked: EmbeddingRequest, http: HttpRequest) -> Response:
        """Vectors of texts, of length 1."""
        return JSONResponse(await embeddings.embed(asked, await shelf.free_model(asked.model), visit_of(http.scope)))

    @app.post("/tokenize", response_model=Tokenized)
    async def tokenize(asked: TokenizeRequest) -> Response:
        """The tokens of a text or a conversation."""
        return JSONResponse(await tokens.tokenize(asked, await shelf.model(asked.model)))

    @app.post("/detokenize")
    async def detokenize(asked: DetokenizeRequest) -> Detokenized:
        """The text of tokens."""
        return await tokens.detokenize(asked, await shelf.model(asked.model))


def _streamed(http: HttpRequest, events: AsyncIterator[str]) -> Response:
    visit_of(http.scope).streams = True
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


def _add_errors(app: FastAPI, gate: Gate) -> None:
    @app.exception_handler(ApiError)
    async def of_ours(http: HttpRequest, error: ApiError) -> Response:
        if error.status == 429:
            visit_of(http.scope).refusal = error.code
            error.headers["Retry-After"] = str(gate.retry_after_s())
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def of_form(http: HttpRequest, error: RequestValidationError) -> Response:
        return _refused(http, error).response()

    @app.exception_handler(HTTPException)
    async def of_framework(http: HttpRequest, error: HTTPException) -> Response:
        return _of_status(http, error).response()


def _refused(http: HttpRequest, error: RequestValidationError) -> ApiError:
    complaints = error.errors()
    if complaints[0]["type"] == "json_invalid":
        reason = complaints[0]["ctx"]["error"]
        return ApiError(
            400, f"the body is no JSON: {reason} at character {complaints[0]['loc'][1]}", code="invalid_json"
        )
    if isinstance(error.body, bytes):
        kind = http.headers.get("content-type", "")
        return ApiError(415, f"the body's type is {kind[:100]!r}; send Content-Type: application/json", code="not_json")
    return refusal(complaints, error.body)


def _of_status(http: HttpRequest, error: HTTPException) -> ApiError:
    path = http.url.path[:200]
    messages = {
        400: "the body cannot be read: it must be JSON in UTF-8, not nested too deep",
        404: f"there is nothing at {path}; see /v1/models and /openapi.json",
        405: f"{http.method} is not for {path}; see /openapi.json",
    }
    answer = ApiError(error.status_code, messages.get(error.status_code, str(error.detail)))
    answer.headers = {**(error.headers or {})}
    return answer
