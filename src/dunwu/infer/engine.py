"""One engine for chat, evaluation and rollouts: requests in, tokens out, all texts together in each pass of the model.

`Engine` is stepped by whoever owns it; `async_engine.py` steps it in a thread of its own. A step: the scheduler plans who reads
what, guesses are put behind the texts that write (`speculate.py`), the runner makes one pass, and what it gives becomes tokens
(`choosing.py`), beams (`beams.py`), judged prompts and vectors (`prompts.py`).

Shapes: `N` tokens of a pass, `P` prompts, `D` model width.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol
from uuid import uuid4

import torch
from torch import Tensor

from dunwu.core.errors import DataError, DunwuError, ModelError
from dunwu.infer import beams, choosing, prompts
from dunwu.infer.adapters import Change
from dunwu.infer.beam import Search
from dunwu.infer.blocks import BlockManager
from dunwu.infer.choosing import Head, Turn
from dunwu.infer.constrain import Constraint, Grammars, Matcher
from dunwu.infer.events import Answer, Event, answer
from dunwu.infer.paged import CacheKind, PagedCache, token_bytes
from dunwu.infer.runner import Runner
from dunwu.infer.sampling import SamplingParams
from dunwu.infer.scheduler import Plan, Scheduler
from dunwu.infer.sequence import FinishReason, Request, Sequence
from dunwu.infer.speculate import Draft, Drafter, Guesser, Lookup, Speculation
from dunwu.infer.texts import EngineStats, Group, Text, Texts
from dunwu.infer.writer import Writer
from dunwu.model.decoder import Decoder
from dunwu.tokenizer.like import TokenizerLike

BLOCK_SIZE = 16
BYTES_TOGETHER = 1 << 30
"""Of weights, keys and values that the passes of a step read, where there are several: some 30 to 60 ms, which whoever reads along
hardly notices."""
ROWS_AS_ONE = 8
"""Texts that are read in about the time that reading the weights takes; more take longer."""


class MatcherSource(Protocol):
    """What `constrain.Grammars` offers."""

    def matcher(self, constraint: Constraint, stop_ids: Iterable[int] | None = None) -> Matcher: ...


class Engine:
    """Answers requests with one model. Not for several threads at once.

    `cache_bytes`: room for keys and values of all texts, those remembered among them. At most `max_sequences` texts are
    written at a time, and at most `token_budget` tokens read a step: more read prompts faster, fewer keep writing smooth.
    `context_length` None takes the model's own. `grammars` None: made when the first constraint comes. `speculation`: how tokens
    are guessed ahead; what comes out is the same. `cache` "int8" keeps keys and values in a quarter of the room, rounded.
    `passes`: at most so many a step, where every text only takes the likeliest token and nobody waits; what comes out is the
    same. The model's weights are laid out anew (`Runner`); what is trained in place meanwhile is seen at the next step, what is
    changed through `.data` when a text begins, but `update_weights` alone forgets what was read before.
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
        speculation: Speculation | None = None,
        cache: CacheKind = "float",
        passes: int = 8,
    ) -> None:
        if model.config.vocab_size < tokenizer.rows_needed:
            raise ModelError(
                f"the model has {model.config.vocab_size} ids and the tokenizer {tokenizer.rows_needed}; "
                "take both from the same folder"
            )
        if passes < 1:
            raise ModelError(f"passes={passes}, and a step takes one at least; give 1 or more")
        self.model, self.tokenizer, self._grammars = model, tokenizer, grammars
        self.max_sequences = max_sequences
        head = model.head_weight
        front = model.columns_in_front
        wanted = context_length or model.config.max_position_embeddings - front
        stores = [model, speculation.model] if isinstance(speculation, Draft) else [model]
        blocks = _count_blocks(stores, cache_bytes, block_size, wanted * max_sequences, cache)
        self.context_length = min(wanted, blocks * block_size)
        scaling = model.config.rope_scaling
        # Beyond the trained context, keys depend on how far the text was read with them: they serve no other text.
        trained = model.config.max_position_embeddings - front
        grows = scaling is not None and scaling.kind == "dynamic" and wanted > trained
        border = scaling.original_max_position_embeddings if scaling and scaling.kind == "longrope" else None
        border = None if border is None else max(0, border - front)
        self._still = trained if grows else None
        self._blocks = BlockManager(blocks, block_size, caching=prefix_cache and not grows)
        self._scheduler = Scheduler(
            self._blocks,
            max_sequences=max_sequences,
            token_budget=max(token_budget, max_sequences),
            border=border,
            guess_rows=0 if speculation is None else speculation.busy_rows,
        )
        with torch.inference_mode():
            store = PagedCache(model.config, blocks, block_size, head.device, head.dtype, cache)
        self._runner = Runner(model, store)
        self._head = Head(self._runner, tokenizer)
        self._guessing = 0 if speculation is None else speculation.most
        self._guesser: Guesser | None = None
        if isinstance(speculation, Draft):
            self._guesser = Drafter(speculation, tokenizer, model.config.vocab_size, blocks, block_size, cache)
        elif speculation is not None:
            self._guesser = Lookup(speculation)
        self._passes = passes
        self._weight_bytes = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        self._token_bytes = token_bytes(model.config, head.dtype, cache)
        self._texts = Texts(self._scheduler, None if self._guesser is None else self._guesser.forget)

    @property
    def busy(self) -> bool:
        """Whether a step would do or say anything."""
        return bool(self._texts.groups or self._texts.pending)

    def answers(self, request_id: str) -> bool:
        """Whether this request is still on its way."""
        return request_id in self._texts.groups

    def submit(self, request: Request) -> str:
        """Queue a request; gives its id. Raises a DunwuError for what can't be answered, and nothing is queued."""
        self._require_answerable(request)
        params = request.params.resolved(self.tokenizer.stop_ids)
        request = replace(request, params=params)
        stop_ids = params.stop_ids or (() if params.constraint is None else self.tokenizer.stop_ids)
        group = Group(request, frozenset(stop_ids))
        texts = [self._text(group, index) for index in range(1 if params.beams else params.n)]
        room = texts[0].sequence.room
        if params.beams:
            group.search = Search(
                width=params.beams,
                max_tokens=max(1, room),
                stop_ids=group.stop_ids,
                length_penalty=params.length_penalty,
                early=params.early_stopping,
            )
        self._texts.add(group, texts, waits=room > 0 or request.task == "embed")
        return request.id

    def cancel(self, request_id: str) -> bool:
        """End a request now and free its blocks; False when it is over, or was never there."""
        group = self._texts.groups.get(request_id)
        if group is None:
            return False
        self._texts.end(group, "cancelled", self._texts.pending)
        return True

    def step(self) -> list[Event]:
        """One pass of the model over all that run, or a few where all is plain; gives what there is to say, in order."""
        texts = self._texts
        events, texts.pending = texts.pending, []
        plan = self._scheduler.plan()
        if not plan.work:
            return events
        texts.steps += 1
        passes: list[list[int]] = []
        try:
            self._guess(plan)
            several = self._write(plan)
            passes, hidden_ND = ([], self._runner.run(plan.work)) if several is None else several
        except (RuntimeError, MemoryError, DunwuError) as error:
            # Nobody knows whose fault it is: all that took part end, and those that wait go on.
            for work in plan.work:
                if work.sequence in texts.of:
                    texts.finish(texts.of[work.sequence], "error", events, str(error))
            return events
        self._scheduler.commit(plan)
        if passes:
            texts.read_tokens += len(plan.work)
            turns = [Turn(texts.of[work.sequence], row) for row, work in enumerate(plan.work)]
            choosing.write_along(turns, passes, texts, events)
        else:
            self._read(plan, hidden_ND, events)
        return events

    def run(self, requests: Iterable[Request]) -> list[Answer]:
        """Answers in the order of the requests. What others are told meanwhile comes with the next `step`.

        Raises what `submit` raises, and then none of them is answered.
        """
        mine = self._submit_all(requests)
        others: list[Event] = []
        while any(one in self._texts.groups for one in mine) or self._texts.pending:
            for event in self.step():
                mine.get(event.id, others).append(event)
        self._texts.pending = others
        return [answer(one, events) for one, events in mine.items()]

    def embed(self, prompts: Iterable[Iterable[int]]) -> Tensor:
        """The mean of each prompt's final hidden states, of length 1: `[P, D]` float32.

        Raises what `submit` raises, and ModelError where a pass of the model fails.
        """
        return embeddings(self.run(embedding_requests(prompts)))

    def fail_all(self, error: str) -> None:
        """End every request with this error."""
        for group in list(self._texts.groups.values()):
            self._texts.end(group, "error", self._texts.pending, error)

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

    def add_adapter(self, name: str, weights: Mapping[str, Change]) -> None:
        """Keep an adapter for requests that name it: module, as in the model's `named_modules`, → what is done there.

        Requests of several adapters, and of none, are answered in one pass. Raises ModelError for what does not fit the model.
        """
        if self.model.columns_in_front:
            raise ModelError(
                f"adapter {name!r} cannot share a model that has a prefix or a prompt in front of all texts; take that off first"
            )
        self._runner.adapters.add(name, weights)

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter. Raises ModelError where there is none of this name, or while a request still needs it."""
        needed = sum(group.request.adapter == name for group in self._texts.groups.values())
        if needed:
            raise ModelError(
                f"{needed} requests are being answered with adapter {name!r}; wait for them, or cancel them"
            )
        self._runner.adapters.remove(name)

    def stats(self) -> EngineStats:
        """Counts for whoever watches."""
        return self._texts.stats()

    def _require_answerable(self, request: Request) -> None:
        name, length = f"request {request.id!r}", len(request.prompt_ids)
        if request.id in self._texts.groups or any(event.id == request.id for event in self._texts.pending):
            raise DataError(f"{name} is being answered already; give each its own id")
        if not request.prompt_ids:
            raise DataError(f"the prompt of {name} is empty; give at least one token")
        low, high = min(request.prompt_ids), max(request.prompt_ids)
        if low < 0 or high >= self.model.config.vocab_size:
            raise DataError(
                f"the prompt of {name} has the id {low if low < 0 else high}, and the model's are 0 to "
                f"{self.model.config.vocab_size - 1}; encode it with the model's own tokenizer"
            )
        if request.task == "embed" and length > self.context_length:
            raise DataError(
                f"the text of {name} takes {length} tokens and this model reads {self.context_length}; make it shorter"
            )
        if request.task == "embed" and request.params != SamplingParams():
            raise DataError(f"{name} is to embed, where nothing is chosen; leave its params at their defaults")
        beams = request.params.beams or 1
        if beams > self.max_sequences or (beams > 1 and self._most_tokens(beams) <= length < self.context_length):
            raise DataError(
                f"{name} wants {beams} beams of {length} tokens and more, and the engine has room for {self.max_sequences} "
                f"texts in {self._blocks.count * self._blocks.size} tokens; ask for fewer beams"
            )
        if request.adapter is not None and request.adapter not in self._runner.adapters:
            known = ", ".join(self._runner.adapters.names) or "none"
            raise ModelError(
                f"this engine has no adapter {request.adapter!r} (there are: {known}); leave it out for the model's own weights"
            )

    def _most_tokens(self, beams: int) -> int:
        """How long each of so many texts may grow at once, so that they fit when nobody else is there."""
        if beams == 1:
            return self.context_length
        return min(self.context_length, (self._blocks.count // beams - 1) * self._blocks.size)

    def _text(self, group: Group, index: int) -> Text:
        prompt, params = group.request.prompt_ids, group.params
        left = self._most_tokens(params.beams or 1) - len(prompt)
        wanted = math.inf if params.max_tokens is None else params.max_tokens
        reason: FinishReason = "length" if wanted <= left else "context"
        sequence = Sequence(group.request, index, list(prompt), int(min(wanted, left)), reason)
        sequence.salt = self._runner.adapters.salt(group.request.adapter)
        sequence.guessing = 0 if params.beams or group.request.task == "embed" else self._guessing
        matcher = None
        if params.constraint is not None:
            if self._grammars is None:
                rows = min(self.model.config.vocab_size, self.tokenizer.vocab_size)
                self._grammars = Grammars(self.tokenizer, rows)
            matcher = self._grammars.matcher(params.constraint, group.stop_ids)
        return Text(sequence, group, Writer(self.tokenizer, params.stop, after=prompt), matcher)

    def _submit_all(self, requests: Iterable[Request]) -> dict[str, list[Event]]:
        mine: dict[str, list[Event]] = {}
        try:
            for request in requests:
                mine[self.submit(request)] = []
        except DunwuError:
            for one in mine:
                self.cancel(one)
            self._texts.pending = [event for event in self._texts.pending if event.id not in mine]
            raise
        return mine

    def _guess(self, plan: Plan) -> None:
        """Put guesses behind the texts for which there is room."""
        if self._guesser is None:
            return
        most = [min(work.spare, self._straight(len(work.sequence.ids))) for work in plan.work]
        for place, guesses in enumerate(self._guesser.guess(plan.work, most)):
            if guesses:
                work = plan.work[place]
                plan.work[place] = replace(work, guesses=_sensible(self._texts.of[work.sequence], guesses))

    def _write(self, plan: Plan) -> tuple[list[list[int]], Tensor] | None:
        """Several passes at once, where every text only takes the likeliest token: what each chose, and the last hidden states."""
        texts = [self._texts.of[work.sequence] for work in plan.work]
        if self._guesser is not None or not self._runner.may_write or not all(text.is_plain for text in texts):
            return None
        count = self._scheduler.tokens_together(plan, self._passes_for(plan))
        if count < 2:
            return None
        return self._head.write(plan.work, count, frozenset().union(*(text.group.stop_ids for text in texts)))

    def _passes_for(self, plan: Plan) -> int:
        """How many take no longer than whoever reads along hardly notices."""
        weights = self._weight_bytes * -(-len(plan.work) // ROWS_AS_ONE)
        seen = self._token_bytes * sum(work.start for work in plan.work)
        return min(self._passes, BYTES_TOGETHER // (weights + seen))

    def _straight(self, length: int) -> int:
        """How many tokens may be read behind `length` before positions are turned otherwise."""
        if self._still is not None:
            return max(0, self._still - length)
        border = self._scheduler.border
        return border - length if border is not None and length <= border else self.context_length

    @torch.inference_mode()
    def _read(self, plan: Plan, hidden_ND: Tensor, events: list[Event]) -> None:
        """What the pass gives: of prompts, and of texts that were read to their end."""
        texts = self._texts
        row = 0
        turns: list[Turn] = []
        for work in plan.work:
            text, end = texts.of[work.sequence], row + work.count
            texts.read_tokens += work.count
            if text.group.params.prompt_logprobs is not None and not text.group.prompt_read:
                prompts.judge(text, work, hidden_ND[row:end], self._head)
            if text.group.request.task == "embed":
                prompts.embed(text, work, hidden_ND[row:end], texts, events)
            elif work.reaches_the_end:
                turns.append(Turn(text, end - 1, work.guesses))
                if not text.group.prompt_read:
                    turns += [Turn(born, end - 1) for born in texts.begin(text, events)]
            row = end + len(work.guesses)
        writers = [turn for turn in turns if not turn.text.is_beam]
        self._settle(choosing.write(writers, hidden_ND, self._head, texts, events))
        if len(writers) < len(turns):
            searchers = [turn for turn in turns if turn.text.is_beam]
            beams.search(searchers, hidden_ND, self._head, texts, self.tokenizer, events)

    def _settle(self, going: list[tuple[Turn, int]]) -> None:
        """Guess more behind a text where all was right, and less where nothing was."""
        if self._guesser is None:
            return
        for turn, accepted in going:
            sequence, proposed = turn.text.sequence, len(turn.guesses)
            self._guesser.settle(sequence, proposed, accepted)
            if 0 < proposed == accepted:
                sequence.guessing = min(2 * sequence.guessing, self._guessing)
            elif proposed and not accepted:
                sequence.guessing = max(1, sequence.guessing // 2)


def embedding_requests(prompts: Iterable[Iterable[int]], adapter: str | None = None) -> list[Request]:
    """One for each prompt, with ids of their own."""
    return [
        Request(id=f"embed {uuid4().hex}", prompt_ids=tuple(prompt), adapter=adapter, task="embed")
        for prompt in prompts
    ]


def embeddings(answers: list[Answer]) -> Tensor:
    """The vectors of answers to `embedding_requests`, `[P, D]` float32. Raises ModelError for one that has none."""
    for one in answers:
        if one.embedding is None:
            raise ModelError(f"a text could not be embedded: {one.outputs[0].error or one.outputs[0].finish_reason}")
    return torch.tensor([one.embedding for one in answers])


def _sensible(text: Text, guesses: tuple[int, ...]) -> tuple[int, ...]:
    """Guesses up to the first that cannot stand there."""
    ends = [place for place, number in enumerate(guesses) if number in text.group.stop_ids]
    guesses = guesses[: ends[0]] if ends else guesses
    return guesses if text.matcher is None else guesses[: text.matcher.accepted(guesses)]


def _count_blocks(
    stores: Iterable[Decoder], cache_bytes: int, block_size: int, most_tokens: int, cache: CacheKind
) -> int:
    """Blocks that fit into the bytes, in the stores of all models, and no more than twice what all texts together can fill."""
    block_bytes = sum(token_bytes(model.config, model.head_weight.dtype, cache) for model in stores) * block_size
    if cache_bytes < block_bytes:
        raise ModelError(f"cache_bytes={cache_bytes} must be at least {block_bytes}, which is one block of tokens")
    return min(cache_bytes // block_bytes, 2 * -(-most_tokens // block_size))
