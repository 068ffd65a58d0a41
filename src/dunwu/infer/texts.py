"""Who is on their way: requests, their texts, what is said of them, and what is counted. No model here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from dunwu.core.errors import RecipeError
from dunwu.infer.beam import Search
from dunwu.infer.constrain import Matcher
from dunwu.infer.events import Event, FinishEvent, PromptEvent, PromptToken, TokenEvent, Usage
from dunwu.infer.sampling import SamplingParams, Scored
from dunwu.infer.scheduler import Scheduler
from dunwu.infer.sequence import FinishReason, Request, Sequence
from dunwu.infer.writer import Writer

Fault = Exception | str | None
"""What ended a text before its time; a RecipeError is its request's own."""
Stop = tuple[int, float | None]
"""A token that ends texts, and its log-probability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Where the engine stands, and what it has counted since it was made. Tokens of a prompt count as hits where the cache held
    them; `idle_blocks` are free but still remember something. Of `proposed_tokens` guessed ahead, `accepted_tokens` were right."""

    waiting: int
    running: int
    blocks: int
    free_blocks: int
    idle_blocks: int
    prompt_tokens: int
    hit_tokens: int
    read_tokens: int
    written_tokens: int
    proposed_tokens: int
    accepted_tokens: int
    finished: Mapping[FinishReason, int]
    preemptions: int
    steps: int


@dataclass(slots=True, eq=False)
class Group:
    """A request, its params resolved, on its way. `unborn`: completions that fork off once the prompt is read; `judged`: the
    prompt but its first token; `pooled`: the sum `[D]` of the hidden states of the prompt's first `pooled_tokens`; `search`:
    of one whose texts are beams, in the order of its beams."""

    request: Request
    stop_ids: frozenset[int]
    alive: "list[Text]" = field(default_factory=list["Text"])
    unborn: "list[Text]" = field(default_factory=list["Text"])
    judged: list[PromptToken] = field(default_factory=list[PromptToken])
    pooled: Tensor | None = None
    pooled_tokens: int = 0
    prompt_read: bool = False
    cached_tokens: int = 0
    search: Search | None = None

    @property
    def params(self) -> SamplingParams:
        return self.request.params


@dataclass(slots=True, eq=False)
class Text:
    """A sequence with what it takes to write it. `likeliest`: what may follow a beam, once it has been read in its round.
    `proposed` tokens were guessed ahead, and of these `accepted` were right."""

    sequence: Sequence
    group: Group
    writer: Writer
    matcher: Matcher | None
    likeliest: list[Scored] | None = None
    proposed: int = 0
    accepted: int = 0

    @property
    def is_beam(self) -> bool:
        return self.group.search is not None

    @property
    def is_plain(self) -> bool:
        """Whether it is written, and only by likeliest tokens."""
        return self.group.prompt_read and not self.is_beam and self.matcher is None and self.group.params.plain


class Texts:
    """All that are on their way. `leave`, if any, is told of each sequence that ends."""

    def __init__(self, scheduler: Scheduler, leave: Callable[[Sequence], None] | None = None) -> None:
        self.scheduler, self._leave = scheduler, leave
        self.groups: dict[str, Group] = {}
        self.of: dict[Sequence, Text] = {}
        self.pending: list[Event] = []
        self.prompt_tokens = self.hit_tokens = self.read_tokens = self.written_tokens = self.steps = 0
        self.proposed_tokens = self.accepted_tokens = 0
        self.finished: dict[FinishReason, int] = {}

    def add(self, group: Group, texts: list[Text], *, waits: bool) -> None:
        """A new request, with all its completions, or its first beam; `waits`: for its prompt to be read."""
        group.alive = list(texts)
        first, *group.unborn = texts
        self.groups[group.request.id] = group
        self.of.update((text.sequence, text) for text in texts)
        self.prompt_tokens += len(group.request.prompt_ids)
        if waits:
            self.scheduler.add(first.sequence)
        else:
            self.end(group, first.sequence.out_of_room, self.pending)

    def begin(self, first: Text, events: list[Event]) -> list[Text]:
        """The prompt has just been read: the other completions begin; gives those that choose at once."""
        group = first.group
        group.prompt_read = True
        group.cached_tokens = first.sequence.cached_tokens or 0
        self.hit_tokens += group.cached_tokens
        if group.params.prompt_logprobs is not None:
            events.append(PromptEvent(id=group.request.id, tokens=(None, *group.judged)))
        born, group.unborn = group.unborn, []
        self.scheduler.fork(first.sequence, [one.sequence for one in born])
        return [one for one in born if one.sequence.state == "running"]

    def one_more_was_read(self, sequence: Sequence) -> None:
        """The next token of a sequence, too, is in the cache."""
        assert sequence.table is not None
        sequence.computed += 1
        self.read_tokens += 1
        self.scheduler.blocks.seal(sequence.table, sequence.ids, sequence.computed)

    def take(
        self, text: Text, number: int, logprob: float | None, top: list[Scored] | None, events: list[Event]
    ) -> bool:
        """One more token of a text: whether it goes on."""
        sequence = text.sequence
        if number in text.group.stop_ids:
            self.finish(text, "stop", events, stop=(number, logprob))
            return False
        if text.matcher is not None:
            text.matcher.accept(number)
        sequence.ids.append(number)
        sequence.room -= 1
        self.written_tokens += 1
        shown, stopped = text.writer.push(number)
        events.append(
            TokenEvent(
                id=sequence.request.id,
                index=sequence.index,
                token_id=number,
                text=shown,
                logprob=logprob,
                top_logprobs=None if top is None else tuple(top),
            )
        )
        if stopped:
            self.finish(text, "stop", events, flush=False)
        elif text.matcher is not None and text.matcher.finished:
            self.finish(text, "stop", events)
        elif sequence.room == 0:
            self.finish(text, sequence.out_of_room, events)
        else:
            return True
        return False

    def finish(
        self,
        text: Text,
        reason: FinishReason,
        events: list[Event],
        error: Fault = None,
        *,
        flush: bool = True,
        stop: Stop | None = None,
    ) -> None:
        """Take a text out and say so; completions that were to fork off it end with it, and beams end together. `stop`: what
        ended it."""
        group = text.group
        if text.is_beam:
            self.end(group, reason, events, error)
            return
        held, stopped = text.writer.finish() if flush else ("", False)
        self.say_end(text, "stop" if stopped else reason, held, events, error=error, stop=stop)
        if text in group.unborn:
            group.unborn.remove(text)
        self.drop(text)
        while group.unborn:
            self.finish(group.unborn[0], reason, events, error)
        if not group.alive:
            self.groups.pop(group.request.id, None)

    def end(self, group: Group, reason: FinishReason, events: list[Event], error: Fault = None) -> None:
        """End whatever is left of a request."""
        if group.search is None:
            while group.alive:
                self.finish(group.alive[0], reason, events, error)
            return
        first = group.alive[0]
        for index in range(group.params.n):
            first.sequence.index = index
            self.say_end(first, reason, "", events, error=error, completion_tokens=0)
        self.forget(group)

    def forget(self, group: Group) -> None:
        """All was said of this request."""
        while group.alive:
            self.drop(group.alive[0])
        self.groups.pop(group.request.id, None)

    def drop(self, text: Text) -> None:
        """Free what a text holds, and say nothing."""
        self.scheduler.finish(text.sequence)
        text.group.alive.remove(text)
        del self.of[text.sequence]
        if self._leave is not None:
            self._leave(text.sequence)

    def say_end(
        self,
        text: Text,
        reason: FinishReason,
        held: str,
        events: list[Event],
        *,
        error: Fault = None,
        completion_tokens: int | None = None,
        score: float | None = None,
        stop: Stop | None = None,
    ) -> None:
        """The last event of a completion, counted."""
        sequence, group = text.sequence, text.group
        sequence.finish_reason = reason
        usage = Usage(
            prompt_tokens=len(group.request.prompt_ids),
            completion_tokens=len(sequence.written) if completion_tokens is None else completion_tokens,
            cached_tokens=group.cached_tokens,
            proposed_tokens=text.proposed,
            accepted_tokens=text.accepted,
        )
        events.append(
            FinishEvent(
                id=group.request.id,
                index=sequence.index,
                reason=reason,
                usage=usage,
                text=held,
                error=None if error is None else str(error),
                unanswerable=isinstance(error, RecipeError),
                score=score,
                stop_id=None if stop is None else stop[0],
                stop_logprob=None if stop is None else stop[1],
            )
        )
        self.finished[reason] = self.finished.get(reason, 0) + 1

    def stats(self) -> EngineStats:
        """Counts for whoever watches."""
        blocks = self.scheduler.blocks
        return EngineStats(
            waiting=len(self.scheduler.waiting) + sum(len(group.unborn) for group in self.groups.values()),
            running=len(self.scheduler.running),
            blocks=blocks.count,
            free_blocks=blocks.free,
            idle_blocks=blocks.idle,
            prompt_tokens=self.prompt_tokens,
            hit_tokens=self.hit_tokens,
            read_tokens=self.read_tokens,
            written_tokens=self.written_tokens,
            proposed_tokens=self.proposed_tokens,
            accepted_tokens=self.accepted_tokens,
            finished=dict(self.finished),
            preemptions=self.scheduler.preemptions,
            steps=self.steps,
        )
