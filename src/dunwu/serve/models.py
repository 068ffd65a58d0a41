"""The shelf of models: which there are, which are in memory, and whether the server takes requests."""

import asyncio
import contextlib
import copy
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from dunwu.chat.protocol import AsyncChat
from dunwu.core.devices import pick_device, pick_dtype
from dunwu.core.errors import BusyError, DataError, DunwuError, MissingExtraError, ModelError, RecipeError
from dunwu.delta.finding import Found
from dunwu.delta.quantise import Weights, quantise
from dunwu.infer.async_engine import AsyncEngine, EventStream
from dunwu.infer.constrain import Constraint, Grammars
from dunwu.infer.engine import Engine, EngineStats
from dunwu.infer.paged import CacheKind
from dunwu.infer.sequence import Request
from dunwu.infer.speculate import Draft, PromptLookup, Speculation
from dunwu.model.count import parameters
from dunwu.model.decoder import Decoder
from dunwu.model.hub import load_model
from dunwu.serve.deltas import Lookup, read_adapter
from dunwu.serve.errors import RETRY_AFTER_S, ApiError, not_ready
from dunwu.serve.source import ModelSource
from dunwu.tokenizer.bpe import Tokenizer
from dunwu.tokenizer.load import load_tokenizer
from dunwu.tokenizer.open import OpenTokenizer

State = Literal["loading", "ready", "draining"]
MOST_NAMED = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How each model is run; see `Engine`, `AsyncEngine` and `quantise`. `draft`: the folder of a smaller model that guesses
    ahead; `lookup` guesses from the prompt."""

    weights: Weights = "float"
    cache: CacheKind = "float"
    cache_bytes: int = 512 << 20
    context_length: int | None = None
    max_sequences: int = 64
    token_budget: int = 512
    max_waiting: int | None = None
    lookup: bool = False
    draft: Path | None = None
    dtype: str = "auto"
    device: torch.device | None = None


class ServedModel:
    """A model in memory. `engine` runs in a thread of its own."""

    def __init__(
        self,
        source: ModelSource,
        engine: Engine,
        tokenizer: Tokenizer | OpenTokenizer,
        *,
        grammars: Grammars | None = None,
        max_waiting: int | None = None,
    ) -> None:
        self.id, self.source, self.tokenizer = source.id, source, tokenizer
        self.context_length = engine.context_length
        self.parameters = parameters(engine.model.config)
        self.hidden_size = engine.model.config.hidden_size
        self.model = engine.model
        self.engine = AsyncEngine(engine, max_waiting=max_waiting)
        self.adapter: str | None = None
        self._grammars = grammars
        self._compiling = asyncio.Semaphore(1)

    @property
    def chats(self) -> bool:
        """Whether there is a template to write a conversation in."""
        return self.tokenizer.chat_template is not None

    def with_adapter(self, source: ModelSource, adapter: str) -> "ServedModel":
        """The same engine under another name, its requests read by an adapter of it."""
        other = copy.copy(self)
        other.id, other.source, other.adapter = source.id, source, adapter
        return other

    async def submit(self, request: Request) -> EventStream:
        """Queue a request. Raises ApiError for what can't be answered: 400, 429 when too much waits, 503 while closing."""
        with _as_api_errors():
            if request.params.constraint is not None:
                await self.compile(request.params.constraint)
            return await self.engine.submit(dataclasses.replace(request, adapter=self.adapter))

    async def embed(self, prompts: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """A vector of length 1 for each prompt, [P, D]. Raises ApiError."""
        with _as_api_errors():
            return (await self.engine.embed(prompts, self.adapter)).numpy()

    async def compile(self, constraint: Constraint) -> None:
        """Read a grammar beside the event loop and the engine, one at a time; the engine then finds it read."""
        grammars = self._grammars
        if grammars is None:
            raise MissingExtraError("llguidance", "constrained", "constrained output")
        async with self._compiling:
            # The first mask too: a grammar that turns out too large is then refused before anything was begun.
            await asyncio.to_thread(lambda: grammars.matcher(constraint).mask())


@contextlib.contextmanager
def _as_api_errors() -> Generator[None]:
    try:
        yield
    except (RecipeError, DataError, MissingExtraError) as error:
        raise ApiError(400, str(error), code="invalid_value") from error
    except BusyError as error:
        raise ApiError(429, str(error), code="queue_full", retry_after_s=RETRY_AFTER_S) from error
    except ModelError as error:
        raise not_ready(str(error)) from error


def load_served_model(source: ModelSource, options: EngineOptions) -> ServedModel:
    """Read weights and tokenizer and begin an engine. Raises ModelError or TokenizerError."""
    model = _load(source.folder, options)
    tokenizer = load_tokenizer(source.folder)
    try:
        grammars = Grammars(tokenizer, min(model.config.vocab_size, tokenizer.vocab_size))
    except MissingExtraError:
        grammars = None
    engine = Engine(
        model,
        tokenizer,
        cache=options.cache,
        cache_bytes=options.cache_bytes,
        context_length=options.context_length,
        max_sequences=options.max_sequences,
        token_budget=options.token_budget,
        grammars=grammars,
        speculation=_speculation(options),
    )
    return ServedModel(source, engine, tokenizer, grammars=grammars, max_waiting=options.max_waiting)


def _load(folder: Path, options: EngineOptions) -> Decoder:
    device = options.device or pick_device()
    model = load_model(folder, device=device, dtype=pick_dtype(device, options.dtype))
    return quantise(model.requires_grad_(False).eval(), options.weights)


def _speculation(options: EngineOptions) -> Speculation | None:
    if options.draft is not None:
        return Draft(model=_load(options.draft, options))
    return PromptLookup() if options.lookup else None


class Shelf:
    """All models that are offered. `load` reads one; it runs in a thread. `deltas`: what there is over them at the moment."""

    def __init__(
        self,
        sources: Sequence[ModelSource],
        load: Callable[[ModelSource], ServedModel],
        deltas: Lookup | None = None,
    ) -> None:
        self.sources = {source.id: source for source in sources}
        if len(self.sources) < len(sources):
            ids = [source.id for source in sources]
            twice = next(one for one in ids if ids.count(one) > 1)
            raise RecipeError(f"two models are called {twice!r}; give one another name, as in other={twice}")
        self._load, self._deltas = load, deltas
        self._loaded: dict[str, ServedModel] = {}
        self._faces: dict[str, ServedModel] = {}  # of deltas, by name
        self._gone: list[ServedModel] = []  # faces of deltas that are no more, while they are still answering
        self._loading: dict[str, asyncio.Lock] = {}
        self.state: State = "loading"

    @property
    def loaded(self) -> list[ServedModel]:
        """Those in memory."""
        return list(self._loaded.values())

    @property
    def full(self) -> bool:
        """Whether no model takes anything more; one that is not read yet would."""
        models = sum(source.delta is None for source in self.sources.values())
        return len(self.loaded) == models and all(model.engine.full for model in self.loaded)

    def stats(self) -> EngineStats | None:
        """What all engines count, summed; None before the first is there."""
        return functools.reduce(_sum, (model.engine.stats for model in self.loaded)) if self.loaded else None

    @property
    def offered(self) -> Mapping[str, ModelSource]:
        """What clients may ask for, by name."""
        return self.sources if self._deltas is None else {**self._deltas(), **self.sources}

    def offer(self, model_id: str) -> ModelSource:
        """Raises ApiError 404 for a name that is not offered."""
        source = self.offered.get(model_id)
        if source is None:
            raise self.unknown(model_id)
        return source

    def source(self, model_id: str) -> ModelSource:
        """Where a model that is asked for lies. Raises ApiError 404 for a name that is not offered."""
        return self.offer(model_id)

    def unknown(self, model_id: str) -> ApiError:
        """For a name that is not offered."""
        base, _, delta = model_id.rpartition(":")
        offered = self.offered
        beside = [source.delta.name for source in offered.values() if source.delta and source.base == base]
        if base in offered and (beside or self._deltas is not None):
            text = f"the model {base[:200]!r} has no delta {delta[:200]!r}; it has: {named(beside)}"
        else:
            text = f"the model {model_id[:200]!r} does not exist; there are: {named(list(offered))}"
        return ApiError(
            404,
            text,
            param="model",
            code="model_not_found",
        )

    def route(self, model_id: str, key: str) -> AsyncChat | None:
        """Who answers conversations under this name for the holder of a key; None where it is a model of this shelf."""
        return None

    def found(self, model_id: str) -> ServedModel | None:
        """The model of that name where it is in memory; of a delta that is not read yet its base."""
        source = self.offered.get(model_id)
        known = self._loaded.get(model_id) or self._faces.get(model_id)
        return known or (self._loaded.get(source.base) if source is not None else None)

    def require_open(self) -> None:
        """Raises ApiError 503 while loading or closing."""
        if self.state != "ready":
            raise not_ready("the model is still being read" if self.state == "loading" else "the server is closing")

    async def model(self, model_id: str) -> ServedModel:
        """The model, read now if it was not yet. Raises ApiError."""
        source = self.source(model_id)
        self.require_open()
        if self._gone or not self._faces.keys() <= self.offered.keys():
            await self._forget_gone()
        return await self._get(source)

    async def free_model(self, model_id: str) -> ServedModel:
        """The same, before work goes into a request. Raises ApiError 429 where the model takes nothing more."""
        model = await self.model(model_id)
        if model.engine.full:
            text = f"as many requests wait for {model_id!r} as this server queues; try again in a while"
            raise ApiError(429, text, code="queue_full", retry_after_s=RETRY_AFTER_S)
        return model

    async def start(self) -> None:
        """Read all models that are not lazy. Raises ModelError or TokenizerError."""
        for source in self.sources.values():
            if not source.lazy:
                await self._read(source)
        if self.state == "loading":
            self.state = "ready"

    def drain(self) -> None:
        """Take no more requests; those under way go on."""
        self.state = "draining"

    async def close(self) -> None:
        """End all engines, and what still runs in them."""
        self.drain()
        for model in self.loaded:
            await model.engine.close()

    async def _get(self, source: ModelSource) -> ServedModel:
        try:
            return await self._read(source)
        except DunwuError as error:
            raise ApiError(500, f"the model {source.id!r} cannot be read: {error}", code="model_unreadable") from error

    async def _read(self, source: ModelSource) -> ServedModel:
        async with self._loading.setdefault(source.id, asyncio.Lock()):
            if source.delta is not None:
                return await self._read_delta(source, source.delta)
            if source.id not in self._loaded:
                self._loaded[source.id] = await asyncio.to_thread(self._load, source)
            return self._loaded[source.id]

    async def _read_delta(self, source: ModelSource, delta: Found) -> ServedModel:
        adapter = f"{source.id}@{delta.entry.version}"
        face = self._faces.get(source.id)
        if face is None or face.adapter != adapter:
            if face is not None:
                self._gone.append(self._faces.pop(source.id))
            face = next((one for one in self._gone if one.adapter == adapter), None)
            if face is not None:  # it is back before it was gone
                self._gone.remove(face)
            else:
                base = await self._read(self.sources[source.base])
                make = await asyncio.to_thread(read_adapter, source, base.model)
                await base.engine.call(lambda engine: engine.add_adapter(adapter, make()))
                face = base.with_adapter(source, adapter)
            self._faces[source.id] = face
        return face

    async def _forget_gone(self) -> None:
        """Let go of the weights of deltas that are offered no more; those still answering wait for the next time."""
        offered = self.offered
        self._gone += [self._faces.pop(name) for name in list(self._faces) if name not in offered]
        waiting, self._gone = self._gone, []
        for face in waiting:
            try:
                await face.engine.call(lambda engine, face=face: engine.remove_adapter(str(face.adapter)))
            except ModelError:
                self._gone.append(face)


def named(names: Sequence[str]) -> str:
    """Names for people: the first of many."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return (", ".join(names[:MOST_NAMED]) or "none") + more


def _sum(one: EngineStats, other: EngineStats) -> EngineStats:
    finished = Counter(one.finished) + Counter(other.finished)
    counts = {
        each.name: getattr(one, each.name) + getattr(other, each.name)
        for each in dataclasses.fields(EngineStats)
        if each.name != "finished"
    }
    return EngineStats(**counts, finished=finished)
