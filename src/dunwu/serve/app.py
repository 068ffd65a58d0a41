"""The HTTP application: routes, and every error in OpenAI's form."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from dunwu import __version__
from dunwu.core.errors import DunwuError
from dunwu.serve import chat_completions, completions
from dunwu.serve.complaints import refusal
from dunwu.serve.errors import ApiError, ErrorBody
from dunwu.serve.models import ModelSource, Shelf
from dunwu.serve.objects import ChatCompletion, Completion, ModelList, ModelObject, Status
from dunwu.serve.page import mount_page
from dunwu.serve.schemas import ChatRequest, CompletionRequest
from dunwu.serve.settings import ServeSettings
from dunwu.serve.streams import LEFT_STATUS, ClientLeft, unless_left, with_errors

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "The request cannot be answered as it is.",
        401: "No API key, or one that is not known.",
        403: "Not from here.",
        404: "No such model.",
        405: "No such method.",
        413: "The body is too large.",
        415: "The body must be application/json.",
        429: "Too much at once: see Retry-After.",
        500: "The model failed.",
        503: "Loading, or closing: see Retry-After.",
        504: "It took too long.",
    }.items()
}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "The answer."}
}


def create_app(shelf: Shelf, settings: ServeSettings, *, failed: Callable[[DunwuError], None] | None = None) -> FastAPI:
    """The application. It reads the shelf's models once it runs and closes them at its end; `failed` hears of models that
    cannot be read."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        loading = asyncio.create_task(_load(shelf, failed))
        try:
            yield
        finally:
            loading.cancel()
            await shelf.close()

    app = FastAPI(
        title="dunwu",
        version=__version__,
        description="An OpenAI-compatible API for models on this machine.",
        lifespan=lifespan,
        responses=ERRORS,
        docs_url=None,  # its page would ask other hosts for scripts
        redoc_url=None,
    )
    app.state.shelf, app.state.settings = shelf, settings
    _add_errors(app)
    _add_status(app, shelf)
    _add_models(app, shelf)
    _add_generation(app, shelf, settings)
    mount_page(app)
    return app


async def _load(shelf: Shelf, failed: Callable[[DunwuError], None] | None) -> None:
    try:
        await shelf.start()
    except DunwuError as error:
        if failed is None:
            raise
        failed(error)


def _add_status(app: FastAPI, shelf: Shelf) -> None:
    @app.get("/health")
    async def health() -> Status:
        """Whether the server runs at all."""
        return {"status": shelf.state}

    @app.get("/ready")
    async def ready() -> Status:
        """Whether it answers now: 503 while models are read and while it closes."""
        shelf.require_open()
        return {"status": shelf.state}


def _add_models(app: FastAPI, shelf: Shelf) -> None:
    @app.get("/v1/models")
    async def models() -> ModelList:
        """All models that are offered."""
        return {"object": "list", "data": [_model_object(shelf, source) for source in shelf.sources.values()]}

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> ModelObject:
        """One of them."""
        return _model_object(shelf, shelf.source(model))


def _model_object(shelf: Shelf, source: ModelSource) -> ModelObject:
    loaded = next((one for one in shelf.loaded if one.id == source.id), None)
    return {
        "id": source.id,
        "object": "model",
        "created": source.created,
        "owned_by": "dunwu",
        "stage": source.stage,
        "loaded": loaded is not None,
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
        model = await shelf.model(asked.model)
        head, going = await unless_left(http, chat_completions.ask(asked, model))
        if asked.stream:
            return _streamed(chat_completions.chunks(head, going, asked, model))
        return JSONResponse(await unless_left(http, chat_completions.whole(head, going, model)))

    @app.post("/v1/completions", response_model=Completion, responses=STREAM)
    async def complete(asked: CompletionRequest, http: HttpRequest) -> Response:
        """What follows a text. With `stream` as server-sent events, the last of which is `[DONE]`."""
        model = await shelf.model(asked.model)
        going = await unless_left(http, completions.ask(asked, model, most=settings.max_completions))
        if asked.stream:
            return _streamed(completions.chunks(going))
        return JSONResponse(await unless_left(http, completions.whole(going)))


def _streamed(chunks: AsyncIterator[str]) -> Response:
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(with_errors(chunks), media_type="text/event-stream", headers=headers)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def of_ours(_: HttpRequest, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def of_form(http: HttpRequest, error: RequestValidationError) -> Response:
        return _refused(http, error).response()

    @app.exception_handler(HTTPException)
    async def of_framework(http: HttpRequest, error: HTTPException) -> Response:
        return _of_status(http, error).response()

    @app.exception_handler(ClientLeft)
    async def of_silence(_: HttpRequest, error: ClientLeft) -> Response:
        return Response(status_code=LEFT_STATUS)

    @app.exception_handler(Exception)
    async def of_nobody_knows_whom(_: HttpRequest, error: Exception) -> Response:
        return ApiError(500, "the server made a mistake; its log says which", code="internal_error").response()


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
