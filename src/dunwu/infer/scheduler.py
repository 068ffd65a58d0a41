"""Who reads how many tokens in the next step. Plain Python, no tensors.

All that runs takes part in every step (continuous batching, Orca, OSDI 2022): texts that write read one token each, first of
all; what the budget of tokens leaves goes to prompts, in parts (chunked prefill, arXiv:2308.16369), and what these leave to
guesses. Who comes first is settled at arrival: a step of priority is worth `AGEING_STEPS` of waiting, so that nobody waits for
ever. When blocks run out, the one that comes last gives up its blocks and reads its text anew later.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace

from dunwu.infer.blocks import BlockManager, Copy, Table
from dunwu.infer.sequence import Sequence

AGEING_STEPS = 256


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens `start` to `start + count` of a sequence, read in this step; `copies` of blocks come before.

    `spare`: tokens behind the sequence's end for which there is room in its blocks, and `guesses`, at most so many: what may
    stand there, read in the same pass so that each guess that proves right saves a pass.
    """

    sequence: Sequence
    start: int
    count: int
    copies: list[Copy]
    spare: int = 0
    guesses: tuple[int, ...] = ()

    @property
    def table(self) -> Table:
        """Where it is read into."""
        assert self.sequence.table is not None
        return self.sequence.table

    @property
    def adapter(self) -> str | None:
        """Whose weights read it."""
        return self.sequence.request.adapter

    @property
    def ids(self) -> list[int]:
        """What is read, from token `start` on."""
        return [*self.sequence.ids[self.start : self.start + self.count], *self.guesses]

    @property
    def reaches_the_end(self) -> bool:
        """Whether the next token can be chosen after it."""
        return self.start + self.count == len(self.sequence.ids)


@dataclass(slots=True)
class Plan:
    """One step."""

    work: list[Work] = field(default_factory=list[Work])
    preempted: int = 0


class Scheduler:
    """At most `max_sequences` run at a time and read at most `token_budget` tokens a step.

    `border`: texts longer than this are read with other positions than shorter ones (LongRoPE): whoever grows across it reads
    everything anew, in one pass whatever the budget, and the two kinds never share blocks. `guess_rows`: guesses are read only
    while a step has no more tokens than these, for beyond that each costs as much as what it may save.
    """

    def __init__(
        self,
        blocks: BlockManager,
        *,
        max_sequences: int,
        token_budget: int,
        border: int | None = None,
        guess_rows: int = 0,
    ) -> None:
        assert token_budget >= max_sequences >= 1
        self.blocks, self.max_sequences, self.token_budget, self.border = blocks, max_sequences, token_budget, border
        self.guess_rows = guess_rows
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._clock = self._arrivals = 0

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. It must fit the cache when it is alone: its tokens and `room` together."""
        if sequence.rank is None:
            self._arrivals += 1
            sequence.rank = self._clock + sequence.request.priority * AGEING_STEPS, self._arrivals, 0
        sequence.state = "waiting"
        self.waiting.append(sequence)

    def fork(self, parent: Sequence, children: Iterable[Sequence]) -> None:
        """Sequences that begin as the parent does, as far as it is read, share its blocks; those that find no place wait.

        They come right behind the parent, before whoever came later.
        """
        assert parent.rank is not None
        for child in children:
            self._arrivals += 1
            child.rank = *parent.rank[:2], self._arrivals
            if parent.table is None or len(self.running) >= self.max_sequences:
                self.add(child)
                continue
            child.table, child.computed, child.state = self.blocks.fork(parent.table), parent.computed, "running"
            child.cached_tokens = child.computed
            self.running.append(child)

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, whatever its state, and free its blocks."""
        if sequence.state == "running":
            self.running.remove(sequence)
        elif sequence.state == "waiting":
            self.waiting.remove(sequence)
        self._let_go(sequence)
        sequence.state = "finished"

    def preempt_all(self) -> None:
        """Whatever runs reads its text anew: the weights changed."""
        for sequence in list(self.running):
            self._preempt(sequence)

    def plan(self) -> Plan:
        """The next step. Nothing is counted as read before `commit`."""
        self._clock += 1
        plan, budget = Plan(), self.token_budget
        ranked = sorted(self.running, key=_rank)
        for sequence in ranked:
            self._turn_at_the_border(sequence)
        for sequence in [one for one in ranked if one.remaining == 1] + [one for one in ranked if one.remaining > 1]:
            if sequence.state == "running" and budget > 0:
                budget -= self._give(sequence, self._share(sequence, budget), plan)
        budget = self._admit(plan, budget)
        if not plan.work and self.running and self.waiting:
            # All that run wait for others of their requests that find no place: the last one makes room.
            self._preempt(max(self.running, key=_rank))
            budget = self._admit(plan, budget)
        self._spare(plan, budget)
        return plan

    def tokens_together(self, plan: Plan, most: int) -> int:
        """How many tokens each text of the plan may read and write before there is another plan, at most `most`; there is room for
        them then. One, unless all only write, by the model's own weights, and nobody waits."""
        if self.waiting or self.border is not None:
            return 1
        if any(work.count != 1 or work.copies or work.adapter or not work.reaches_the_end for work in plan.work):
            return 1
        most = min(most, *(work.sequence.room for work in plan.work))
        lacking = sum(max(0, self.blocks.needed(work.start + most) - len(work.table.blocks)) for work in plan.work)
        if most < 2 or lacking > self.blocks.free:
            return 1
        for work in plan.work:
            copies = self.blocks.reserve(work.table, work.start + 1, work.start + most)
            assert copies == [], "what follows a text's own token is its own"
        return most

    def commit(self, plan: Plan) -> None:
        """The step was made: its tokens are in the cache."""
        for work in plan.work:
            sequence = work.sequence
            assert sequence.table is not None
            sequence.computed = work.start + work.count
            self.blocks.seal(sequence.table, sequence.ids, sequence.computed)

    def _salt(self, sequence: Sequence) -> Hashable:
        return sequence.salt, self.border is not None and len(sequence.ids) > self.border

    def _turn_at_the_border(self, sequence: Sequence) -> None:
        if sequence.table is not None and sequence.table.salt != self._salt(sequence):
            self._let_go(sequence)
            self._open(sequence)

    def _share(self, sequence: Sequence, budget: int) -> int:
        if self.border is not None and sequence.computed <= self.border < len(sequence.ids):
            return sequence.remaining
        return min(sequence.remaining, budget)

    def _give(self, sequence: Sequence, count: int, plan: Plan) -> int:
        """Put `count` tokens of a running sequence into the plan; whoever comes last makes room. Gives how many were put."""
        assert sequence.table is not None
        start = sequence.computed
        while (copies := self.blocks.reserve(sequence.table, start, start + count)) is None:
            last = max(self.running, key=_rank)
            plan.work = [work for work in plan.work if work.sequence is not last]
            plan.preempted += 1
            self._preempt(last)
            if last is sequence:
                return 0
        plan.work.append(Work(sequence, start, count, copies))
        return count

    def _spare(self, plan: Plan, budget: int) -> None:
        """Room for guesses, where nobody else wants it."""
        budget = min(budget, self.guess_rows - sum(work.count for work in plan.work))
        for place, work in enumerate(plan.work):
            spare = min(work.sequence.guessing, work.sequence.room - 1, budget)
            if spare <= 0 or work.count > 1 or not work.reaches_the_end:
                continue
            end = work.start + 1
            if self.blocks.needed(end + spare) - len(work.table.blocks) + len(self.running) > self.blocks.free:
                continue
            copies = self.blocks.reserve(work.table, end, end + spare)
            assert copies is not None
            plan.work[place] = replace(work, copies=[*work.copies, *copies], spare=spare)
            budget -= spare

    def _admit(self, plan: Plan, budget: int) -> int:
        """Let those that wait begin; gives what is left of the budget."""
        for sequence in sorted(self.waiting, key=_rank):
            if budget <= 0 or len(self.running) >= self.max_sequences:
                return budget
            hits = self.blocks.found(sequence.ids, self._salt(sequence)) if sequence.reuses else []
            if self._is_being_read(sequence, len(hits) * self.blocks.size):
                continue
            held = sum(self.blocks.holders[block] > 0 for block in hits)
            # Each that runs may soon want a block; whoever is alone may have all.
            lacking = self.blocks.needed(len(sequence.ids)) - held + len(self.running)
            if self.running and lacking > self.blocks.free:
                return budget
            self._open(sequence)
            self.waiting.remove(sequence)
            self.running.append(sequence)
            sequence.state = "running"
            budget -= self._give(sequence, self._share(sequence, budget), plan)
        return budget

    def _is_being_read(self, sequence: Sequence, hit: int) -> bool:
        """Whether the next block of its prompt is being filled by another: then it waits, and finds it."""
        if not self.blocks.caching or not sequence.reuses:
            return False
        end = hit + self.blocks.size
        return len(sequence.ids) > end and any(
            other.computed < end <= len(other.ids)
            and other.remaining > 1
            and other.table is not None
            and other.table.salt == self._salt(sequence)
            and other.ids[:end] == sequence.ids[:end]
            for other in self.running
        )

    def _open(self, sequence: Sequence) -> None:
        sequence.table = self.blocks.open(sequence.ids, self._salt(sequence), reuse=sequence.reuses)
        sequence.computed = len(sequence.table.blocks) * self.blocks.size
        if sequence.cached_tokens is None:
            sequence.cached_tokens = sequence.computed

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._let_go(sequence)
        sequence.preemptions += 1
        self.preemptions += 1
        self.add(sequence)

    def _let_go(self, sequence: Sequence) -> None:
        if sequence.table is not None:
            self.blocks.release(sequence.table)
        sequence.table, sequence.computed = None, 0


def _rank(sequence: Sequence) -> tuple[int, int, int]:
    assert sequence.rank is not None
    return sequence.rank
