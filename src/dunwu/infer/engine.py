"""One engine for chat, evaluation and rollouts: requests in, tokens out, all texts together in each pass of the model.

`Engine` is stepped by whoever owns it; `async_engine.py` steps it in a thread of its own.

Shapes: `N` tokens of a pass, `R` rows that choose a token, `D` model width, `V` vocabulary.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from uuid import uuid4

import torch
from torch import Tensor, nn

from dunwu.core.errors import DataError, DunwuError, ModelError
from dunwu.infer.blocks import BlockManager
from dunwu.infer.constrain import Constraint, Grammars, Matcher
from dunwu.infer.events import (
    Answer,
    EmbeddingEvent,
    Event,
    FinishEvent,
    PromptEvent,
    PromptToken,
    TokenEvent,
    Usage,
    answer,
)
from dunwu.infer.paged import CacheKind, PagedCache, token_bytes
from dunwu.infer.runner import Runner
from dunwu.infer.sampling import Choice, History, SamplingParams, choose, draw, token_logprobs
from dunwu.infer.scheduler import Plan, Scheduler
from dunwu.infer.sequence import FinishReason, Request, Sequence
from dunwu.infer.writer import Writer
from dunwu.model.decoder import Decoder
from dunwu.tokenizer.like import TokenizerLike

BLOCK_SIZE = 16
JUDGED_ROWS = 64
"""Prompt tokens whose logits exist at a time."""


class MatcherSource(Protocol):
    """What `constrain.Grammars` offers."""

    def matcher(self, constraint: Constraint, stop_ids: Iterable[int] | None = None) -> Matcher: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Where the engine stands, and what it has counted since it was made. Tokens of a prompt count as hits where the cache held
    them; `idle_blocks` are free but still remember something."""

    waiting: int
    running: int
    blocks: int
    free_blocks: int
    idle_blocks: int
    prompt_tokens: int
    hit_tokens: int
    read_tokens: int
    written_tokens: int
    finished: Mapping[FinishReason, int]
    preemptions: int
    steps: int


@dataclass(slots=True, eq=False)
class _Group:
    """A request on its way. `unborn`: completions that fork off once the prompt is read; `judged`: the prompt but its first token;
    `pooled`: the sum of the hidden states of the prompt's first `pooled_tokens`, float64."""

    request: Request
    params: SamplingParams
    stop_ids: frozenset[int]
    alive: "list[_Text]" = field(default_factory=list["_Text"])
    unborn: "list[_Text]" = field(default_factory=list["_Text"])
    judged: list[PromptToken] = field(default_factory=list[PromptToken])
    pooled: Tensor | None = None
    pooled_tokens: int = 0
    prompt_read: bool = False
    cached_tokens: int = 0


@dataclass(slots=True, eq=False)
class _Text:
    """A sequence with what it takes to write it."""

    sequence: Sequence
    group: _Group
    writer: Writer
    matcher: Matcher | None


class Engine:
    """Answers requests with one model. Not for several threads at once.

    `cache_bytes`: room for keys and values of all texts, those remembered among them. At most `max_sequences` texts are
    written at a time, and at most `token_budget` tokens read a step: more read prompts faster, fewer keep writing smooth.
    `context_length` None takes the model's own. `grammars` None: made when the first constraint comes. `cache` "int8" keeps
    keys and values in a quarter of the room, rounded. The model's weights are laid out anew (`Runner`); what is trained in
    place meanwhile is seen at the next step, but `update_weights` alone forgets what was read before.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: TokenizerLike,
        *,
        cache_bytes: int = 512 << 20,
        block_size: int = BLOCK_SIZE,
        max_sequences: int = 64,
        token_budget: int = 512,
        context_length: int | None = None,
        prefix_cache: bool = True,
        grammars: MatcherSource | None = None,
        cache: CacheKind = "float",
    ) -> None:
        if model.config.vocab_size < tokenizer.rows_needed:
            raise ModelError(
                f"the model has {model.config.vocab_size} ids and the tokenizer {tokenizer.rows_needed}; "
                "take both from the same folder"
            )
        self.model, self.tokenizer, self._grammars = model, tokenizer, grammars
        self.max_sequences = max_sequences
        head = model.head_weight
        wanted = context_length or model.config.max_position_embeddings
        blocks = _count_blocks(model, cache_bytes, block_size, wanted * max_sequences, cache)
        self.context_length = min(wanted, blocks * block_size)
        scaling = model.config.rope_scaling
        # Beyond the trained context, keys depend on how far the text was read with them: they serve no other text.
        grows = scaling is not None and scaling.kind == "dynamic" and wanted > model.config.max_position_embeddings
        border = scaling.original_max_position_embeddings if scaling and scaling.kind == "longrope" else None
        self._blocks = BlockManager(blocks, block_size, caching=prefix_cache and not grows)
        self._scheduler = Scheduler(
            self._blocks, max_sequences=max_sequences, token_budget=max(token_budget, max_sequences), border=border
        )
        with torch.inference_mode():
            store = PagedCache(model.config, blocks, block_size, head.device, head.dtype, cache)
        self._runner = Runner(model, store)
        unused = [number for number in tokenizer.unused_ids if number < model.config.vocab_size]
        self._unused = torch.tensor(unused, dtype=torch.int64, device=head.device)
        self._groups: dict[str, _Group] = {}
        self._texts: dict[Sequence, _Text] = {}
        self._pending: list[Event] = []
        self._read = self._written = self._steps = self._prompt = self._hits = 0
        self._finished: dict[FinishReason, int] = {}

    @property
    def busy(self) -> bool:
        """Whether a step would do or say anything."""
        return bool(self._groups or self._pending)

    def answers(self, request_id: str) -> bool:
        """Whether this request is still on its way."""
        return request_id in self._groups

    def submit(self, request: Request) -> str:
        """Queue a request; gives its id. Raises a DunwuError for what can't be answered, and nothing is queued."""
        self._require_answerable(request)
        params = request.params.resolved(self.tokenizer.stop_ids)
        stop_ids = params.stop_ids or (() if params.constraint is None else self.tokenizer.stop_ids)
        group = _Group(request, params, frozenset(stop_ids))
        group.alive = [self._text(group, index) for index in range(params.n)]
        first, *group.unborn = group.alive
        self._groups[request.id] = group
        self._texts.update((text.sequence, text) for text in group.alive)
        self._prompt += len(request.prompt_ids)
        if first.sequence.room > 0 or request.task == "embed":
            self._scheduler.add(first.sequence)
        else:
            self._finish(first, "context", self._pending)
        return request.id

    def cancel(self, request_id: str) -> bool:
        """End a request now and free its blocks; False when it is over, or was never there."""
        if request_id not in self._groups:
            return False
        self._end(self._groups[request_id], "cancelled")
        return True

    def step(self) -> list[Event]:
        """One pass of the model over all that run; gives what there is to say, in order."""
        events, self._pending = self._pending, []
        plan = self._scheduler.plan()
        if not plan.work:
            return events
        self._steps += 1
        try:
            hidden_ND = self._runner.run(plan.work)
        except (RuntimeError, MemoryError, DunwuError) as error:
            # Nobody knows whose fault it is: all that took part end, and those that wait go on.
            for work in plan.work:
                self._finish(self._texts[work.sequence], "error", events, str(error))
            return events
        self._scheduler.commit(plan)
        self._read += sum(work.count for work in plan.work)
        self._judge(plan, hidden_ND)
        self._embed(plan, hidden_ND, events)
        self._write(plan, hidden_ND, events)
        return events

    def run(self, requests: Iterable[Request]) -> list[Answer]:
        """Answers in the order of the requests. What others are told meanwhile comes with the next `step`.

        Raises what `submit` raises, and then none of them is answered.
        """
        mine = self._submit_all(requests)
        others: list[Event] = []
        while any(one in self._groups for one in mine) or self._pending:
            for event in self.step():
                mine.get(event.id, others).append(event)
        self._pending = others
        return [answer(one, events) for one, events in mine.items()]

    def _submit_all(self, requests: Iterable[Request]) -> dict[str, list[Event]]:
        mine: dict[str, list[Event]] = {}
        try:
            for request in requests:
                mine[self.submit(request)] = []
        except DunwuError:
            for one in mine:
                self.cancel(one)
            self._pending = [event for event in self._pending if event.id not in mine]
            raise
        return mine

    def embed(self, prompts: Iterable[Iterable[int]]) -> Tensor:
        """The mean of each prompt's final hidden states, of length 1: `[P, D]` float32.

        Raises what `submit` raises, and ModelError where a pass of the model fails.
        """
        return embeddings(self.run(embedding_requests(prompts)))

    def fail_all(self, error: str) -> None:
        """End every request with this error."""
        for group in list(self._groups.values()):
            self._end(group, "error", error)

    def update_weights(self, state: Mapping[str, Tensor]) -> None:
        """Take over these weights, by the names of the model's `state_dict`, in place; others stay.

        Nothing is remembered of the old ones: what runs reads its text anew and goes on with the new weights. Raises
        ModelError, before anything changed, for a name or a shape that the model does not have.
        """
        own = self.model.state_dict()
        for name, tensor in state.items():
            if name not in own:
                raise ModelError(f"the model has no weights named {name!r}; give names of its state_dict")
            if own[name].shape != tensor.shape:
                raise ModelError(
                    f"{name} has the shape {tuple(tensor.shape)}, and the model's is {tuple(own[name].shape)}; give weights "
                    "of the same configuration"
                )
        with torch.no_grad():
            for name, tensor in state.items():
                own[name].copy_(tensor)
        self._scheduler.preempt_all()
        self._blocks.forget_all()

    def stats(self) -> EngineStats:
        """Counts for whoever watches."""
        unborn = sum(len(group.unborn) for group in self._groups.values())
        return EngineStats(
            waiting=len(self._scheduler.waiting) + unborn,
            running=len(self._scheduler.running),
            blocks=self._blocks.count,
            free_blocks=self._blocks.free,
            idle_blocks=self._blocks.idle,
            prompt_tokens=self._prompt,
            hit_tokens=self._hits,
            read_tokens=self._read,
            written_tokens=self._written,
            finished=dict(self._finished),
            preemptions=self._scheduler.preemptions,
            steps=self._steps,
        )

    def _require_answerable(self, request: Request) -> None:
        if request.id in self._groups or any(event.id == request.id for event in self._pending):
            raise DataError(f"request {request.id!r} is being answered already; give each its own id")
        if not request.prompt_ids:
            raise DataError(f"the prompt of request {request.id!r} is empty; give at least one token")
        low, high = min(request.prompt_ids), max(request.prompt_ids)
        if low < 0 or high >= self.model.config.vocab_size:
            raise DataError(
                f"the prompt of request {request.id!r} has the id {low if low < 0 else high}, and the model's are 0 to "
                f"{self.model.config.vocab_size - 1}; encode it with the model's own tokenizer"
            )
        if request.task == "embed" and len(request.prompt_ids) > self.context_length:
            raise DataError(
                f"the text of request {request.id!r} takes {len(request.prompt_ids)} tokens and this model reads "
                f"{self.context_length}; make it shorter"
            )
        if request.task == "embed" and request.params != SamplingParams():
            raise DataError(
                f"request {request.id!r} is to embed, where nothing is chosen; leave its params at their defaults"
            )
        if request.adapter is not None:
            raise ModelError(
                f"this engine has no adapter {request.adapter!r}; leave it out for the model's own weights"
            )

    def _text(self, group: _Group, index: int) -> _Text:
        prompt, params = group.request.prompt_ids, group.params
        left = self.context_length - len(prompt)
        wanted = math.inf if params.max_tokens is None else params.max_tokens
        reason: FinishReason = "length" if wanted <= left else "context"
        sequence = Sequence(group.request, index, list(prompt), int(min(wanted, left)), reason)
        matcher = None
        if params.constraint is not None:
            if self._grammars is None:
                rows = min(self.model.config.vocab_size, self.tokenizer.vocab_size)
                self._grammars = Grammars(self.tokenizer, rows)
            matcher = self._grammars.matcher(params.constraint, group.stop_ids)
        return _Text(sequence, group, Writer(self.tokenizer, params.stop, after=prompt), matcher)

    @torch.inference_mode()
    def _judge(self, plan: Plan, hidden_ND: Tensor) -> None:
        """Log-probabilities of prompts, for those who asked."""
        row = 0
        for work in plan.work:
            group, first = self._texts[work.sequence].group, row - work.start
            row += work.count
            prompt, wanted = work.sequence.request.prompt_ids, group.params.prompt_logprobs
            if wanted is None or group.prompt_read:
                continue
            last = min(work.start + work.count, len(prompt) - 1)
            for start in range(max(work.start, len(group.judged)), last, JUDGED_ROWS):
                end = min(start + JUDGED_ROWS, last)
                logits_RV = self._logits(hidden_ND[first + start : first + end])
                for logprob, top in token_logprobs(logits_RV, prompt[start + 1 : end + 1], wanted):
                    group.judged.append(PromptToken(logprob, tuple(top)))

    @torch.inference_mode()
    def _embed(self, plan: Plan, hidden_ND: Tensor, events: list[Event]) -> None:
        """Vectors of prompts, for those who asked: each token counts once, however often it was read."""
        row = 0
        for work in plan.work:
            text, first = self._texts[work.sequence], row - work.start
            row += work.count
            group = text.group
            if group.request.task != "embed":
                continue
            start, end = max(work.start, group.pooled_tokens), work.start + work.count
            sum_D = hidden_ND[first + start : first + end].double().sum(0)
            group.pooled = sum_D if group.pooled is None else group.pooled + sum_D
            group.pooled_tokens = max(end, group.pooled_tokens)
            if work.reaches_the_end:
                self._say_vector(text, group.pooled, events)

    def _say_vector(self, text: _Text, sum_D: Tensor, events: list[Event]) -> None:
        vector_D = nn.functional.normalize(sum_D, dim=0).float()
        if bool(vector_D.isfinite().all()):
            events.append(EmbeddingEvent(id=text.group.request.id, vector=tuple(vector_D.tolist())))
            self._finish(text, "stop", events)
        else:
            self._finish(text, "error", events, "the model's hidden states are not finite: its weights are damaged")

    @torch.inference_mode()
    def _write(self, plan: Plan, hidden_ND: Tensor, events: list[Event]) -> None:
        """Choose a token for each text that has been read to its end."""
        texts, rows = self._ready(plan, events)
        texts, rows, masks = self._masked(texts, rows, events)
        if not texts:
            return
        logits_RV = self._logits(hidden_ND[rows])
        try:
            chosen = _choose(texts, logits_RV, masks)
        except (DunwuError, RuntimeError):
            chosen = None  # one row spoils the choice of all: each chooses for itself
        for row, text in enumerate(texts):
            try:
                if chosen is not None:
                    self._take(text, chosen, row, events)
                else:
                    own = {0: masks[row]} if row in masks else {}
                    self._take(text, _choose([text], logits_RV[row : row + 1], own), 0, events)
            except (DunwuError, RuntimeError) as error:
                self._finish(text, "error", events, str(error))

    def _ready(self, plan: Plan, events: list[Event]) -> tuple[list[_Text], list[int]]:
        """Texts that choose now, and their rows of the pass; completions of one prompt fork here and share a row."""
        texts: list[_Text] = []
        rows: list[int] = []
        last = -1
        for work in plan.work:
            last += work.count
            text = self._texts.get(work.sequence)  # None: its vector was made, and it is over
            if work.reaches_the_end and text is not None:
                born = [] if text.group.prompt_read else self._born(text, events)
                texts += [text, *born]
                rows += [last] * (1 + len(born))
        return texts, rows

    def _born(self, first: _Text, events: list[Event]) -> list[_Text]:
        """The prompt has just been read: the other completions begin; gives those that choose at once."""
        group = first.group
        group.prompt_read = True
        group.cached_tokens = first.sequence.cached_tokens or 0
        self._hits += group.cached_tokens
        if group.params.prompt_logprobs is not None:
            events.append(PromptEvent(id=group.request.id, tokens=(None, *group.judged)))
        born, group.unborn = group.unborn, []
        self._scheduler.fork(first.sequence, [one.sequence for one in born])
        return [one for one in born if one.sequence.state == "running"]

    def _masked(
        self, texts: list[_Text], rows: list[int], events: list[Event]
    ) -> tuple[list[_Text], list[int], dict[int, Tensor]]:
        """What grammars allow, by place; a text whose grammar fails ends."""
        masks: dict[int, Tensor] = {}
        kept_texts: list[_Text] = []
        kept_rows: list[int] = []
        for text, row in zip(texts, rows, strict=True):
            if text.matcher is not None:
                try:
                    masks[len(kept_texts)] = text.matcher.mask()
                except (DunwuError, RuntimeError, ValueError) as error:
                    self._finish(text, "error", events, str(error))
                    continue
            kept_texts.append(text)
            kept_rows.append(row)
        return kept_texts, kept_rows, masks

    def _logits(self, hidden_RD: Tensor) -> Tensor:
        """Logits `[R, V]` of the tokenizer's ids; those that stand for nothing are never chosen."""
        logits_RV = self._runner.logits(hidden_RD)[:, : self.tokenizer.vocab_size]
        return logits_RV.index_fill(1, self._unused, -math.inf) if self._unused.numel() else logits_RV

    def _take(self, text: _Text, chosen: Choice, row: int, events: list[Event]) -> None:
        """The token of one text: it goes on, or ends."""
        sequence, number = text.sequence, chosen.ids[row]
        if number in text.group.stop_ids:
            self._finish(text, "stop", events)
            return
        if text.matcher is not None:
            text.matcher.accept(number)
        sequence.ids.append(number)
        sequence.room -= 1
        self._written += 1
        shown, stopped = text.writer.push(number)
        top = chosen.top[row]
        events.append(
            TokenEvent(
                id=sequence.request.id,
                index=sequence.index,
                token_id=number,
                text=shown,
                logprob=chosen.logprobs[row],
                top_logprobs=None if top is None else tuple(top),
            )
        )
        if stopped:
            self._finish(text, "stop", events, flush=False)
        elif text.matcher is not None and text.matcher.finished:
            self._finish(text, "stop", events)
        elif sequence.room == 0:
            self._finish(text, sequence.out_of_room, events)

    def _finish(
        self, text: _Text, reason: FinishReason, events: list[Event], error: str | None = None, *, flush: bool = True
    ) -> None:
        """Take a text out and say so; completions that were to fork off it end with it."""
        sequence, group = text.sequence, text.group
        held, stopped = text.writer.finish() if flush else ("", False)
        sequence.finish_reason = "stop" if stopped else reason
        usage = Usage(
            prompt_tokens=len(group.request.prompt_ids),
            completion_tokens=len(sequence.written),
            cached_tokens=group.cached_tokens,
        )
        events.append(
            FinishEvent(
                id=group.request.id,
                index=sequence.index,
                reason=sequence.finish_reason,
                usage=usage,
                text=held,
                error=error,
            )
        )
        self._finished[sequence.finish_reason] = self._finished.get(sequence.finish_reason, 0) + 1
        if text in group.unborn:
            group.unborn.remove(text)
        else:
            self._scheduler.finish(sequence)
        group.alive.remove(text)
        del self._texts[sequence]
        while group.unborn:
            self._finish(group.unborn[0], reason, events, error)
        if not group.alive:
            self._groups.pop(group.request.id, None)

    def _end(self, group: _Group, reason: FinishReason, error: str | None = None) -> None:
        while group.alive:
            self._finish(group.alive[0], reason, self._pending, error)


def embedding_requests(prompts: Iterable[Iterable[int]]) -> list[Request]:
    """One for each prompt, with ids of their own."""
    return [Request(id=f"embed {uuid4().hex}", prompt_ids=tuple(prompt), task="embed") for prompt in prompts]


def embeddings(answers: list[Answer]) -> Tensor:
    """The vectors of answers to `embedding_requests`, `[P, D]` float32. Raises ModelError for one that has none."""
    for one in answers:
        if one.embedding is None:
            raise ModelError(f"a text could not be embedded: {one.outputs[0].error or one.outputs[0].finish_reason}")
    return torch.tensor([one.embedding for one in answers])


def _choose(texts: list[_Text], logits_RV: Tensor, masks: Mapping[int, Tensor]) -> Choice:
    """The next token of each text. A draw depends on seed, completion and place alone, so that reading anew repeats it."""
    params = [text.group.params for text in texts]
    histories = [History(text.group.request.prompt_ids, text.sequence.written) for text in texts]
    draws = [
        0.0 if one.greedy else draw(one.seed or 0, len(past.completion), branch=text.sequence.index)
        for text, one, past in zip(texts, params, histories, strict=True)
    ]
    return choose(logits_RV, params, histories, draws, masks=masks)


def _count_blocks(model: Decoder, cache_bytes: int, block_size: int, most_tokens: int, cache: CacheKind) -> int:
    """Blocks that fit into the bytes, and no more than twice what all texts together can fill."""
    block_bytes = token_bytes(model.config, model.head_weight.dtype, cache) * block_size
    if cache_bytes < block_bytes:
        raise ModelError(f"cache_bytes={cache_bytes} must be at least {block_bytes}, which is one block of tokens")
    return min(cache_bytes // block_bytes, 2 * -(-most_tokens // block_size))
