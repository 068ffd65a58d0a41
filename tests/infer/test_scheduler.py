"""Who reads when: budgets kept, everybody served, nothing left over."""

from collections import Counter
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.infer.blocks import BlockManager
from dunwu.infer.sampling import SamplingParams
from dunwu.infer.scheduler import AGEING_STEPS, Plan, Scheduler
from dunwu.infer.sequence import Request, Sequence

SIZE = 4
_numbers = count()


def sequence(prompt: list[int], room: int = 1, *, priority: int = 0, **params: int) -> Sequence:
    request = Request(
        id=str(next(_numbers)), prompt_ids=tuple(prompt), params=SamplingParams(**params), priority=priority
    )
    return Sequence(request, 0, list(prompt), room, "length")


def scheduler(blocks: int = 32, *, sequences: int = 4, budget: int = 16, border: int | None = None) -> Scheduler:
    return Scheduler(BlockManager(blocks, SIZE), max_sequences=sequences, token_budget=budget, border=border)


def step(one: Scheduler) -> Plan:
    """A step as the engine makes it: whoever has read all writes a token, or ends."""
    plan = one.plan()
    one.commit(plan)
    for work in plan.work:
        if work.sequence.remaining == 0:
            work.sequence.room -= 1
            if work.sequence.room == 0:
                one.finish(work.sequence)
            else:
                work.sequence.ids.append(len(work.sequence.ids) % 3)
    return plan


def shares(plan: Plan, *sequences: Sequence) -> list[tuple[int, int]]:
    return [(sequences.index(work.sequence), work.count) for work in plan.work]


def test_writing_comes_before_reading_and_a_long_prompt_is_read_in_parts():
    one = scheduler()
    writer, reader = sequence([1, 2], 9), sequence([5] * 40, 2)
    one.add(writer)
    assert shares(step(one), writer, reader) == [(0, 2)]
    one.add(reader)
    assert [shares(step(one), writer, reader) for _ in range(3)] == [
        [(0, 1), (1, 15)],
        [(0, 1), (1, 15)],
        [(0, 1), (1, 10)],
    ]
    assert shares(step(one), writer, reader) == [(0, 1), (1, 1)]


def test_a_shared_beginning_is_read_once_even_when_all_come_together():
    one = scheduler(sequences=8)
    beginning = list(range(100, 124))
    many = [sequence([*beginning, number], 3) for number in range(6)]
    for each in many:
        one.add(each)
    read = 0
    while one.waiting or one.running:
        read += sum(work.count for work in step(one).work if work.start < len(beginning))
    assert read == len(beginning) + 1  # the first one's own token is read in the same part
    assert [each.cached_tokens for each in many] == [0, *[len(beginning)] * 5]


def test_whoever_judges_its_prompt_reads_all_of_it():
    one = scheduler()
    one.add(sequence([7] * 12))
    step(one)
    judge = sequence([7] * 12, prompt_logprobs=1)
    one.add(judge)
    assert shares(step(one), judge) == [(0, 12)]


def test_the_last_comer_gives_up_its_blocks_and_is_the_first_to_come_back():
    one = scheduler(blocks=6, sequences=3)
    first, second, third = (sequence([number] * 7, 12) for number in range(3))
    for each in (first, second, third):
        one.add(each)
    seen = Counter()
    while one.waiting or one.running:
        plan = step(one)
        seen[plan.preempted] += 1
        assert plan.work
    assert first.preemptions == 0
    assert third.preemptions + second.preemptions == one.preemptions > 0
    assert one.blocks.free == 6


def test_priority_is_worth_a_while_and_no_more():
    one = scheduler(sequences=1)
    one.add(sequence([1], 50))
    step(one)
    patient = sequence([2], 1, priority=1)
    one.add(patient)
    overtaken = 0
    while patient.state != "finished":
        urgent = sequence([3], 5)
        one.add(urgent)
        while urgent.state != "finished" and patient.state != "finished":
            step(one)
        overtaken += urgent.state == "finished"
    assert 30 < overtaken <= AGEING_STEPS / 5 + 1


def test_forks_share_the_prompt_and_copy_what_they_write_to():
    one = scheduler()
    parent = sequence([1] * 10, 3)
    one.add(parent)
    one.commit(one.plan())
    children = [sequence([1] * 10, 3) for _ in range(4)]
    one.fork(parent, children)
    assert [child.state for child in children] == ["running"] * 3 + ["waiting"]
    assert one.blocks.free == 32 - 3
    for number, each in enumerate([parent, *children[:3]]):
        each.ids.append(number)
    plan = one.plan()
    assert sum(len(work.copies) for work in plan.work) == 3  # the last to write keeps the original
    assert one.blocks.free == 32 - 2 - 4


def test_across_the_border_everything_is_read_anew_in_one_pass_and_nothing_is_shared():
    one = scheduler(border=20, budget=8)
    grows = sequence([1] * 19, 6)
    one.add(grows)
    passes = []
    while grows.state != "finished":
        passes += [(work.start, work.count) for work in step(one).work]
    assert passes == [(0, 8), (8, 8), (16, 3), (19, 1), (0, 21), (21, 1), (22, 1), (23, 1)]
    short, long = sequence([1] * 18), sequence([1] * 30)
    one.add(long)
    assert shares(step(one), long) == [(0, 30 - long.cached_tokens)]
    one.add(short)
    step(one)
    assert short.cached_tokens == 16


requests = st.lists(
    st.tuples(
        st.integers(0, 30),  # when it comes
        st.lists(st.integers(0, 1), min_size=1, max_size=20),
        st.integers(1, 12),  # what it writes
        st.integers(-2, 2),
        st.one_of(st.none(), st.integers(0, 40)),  # when it is cancelled
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=80, deadline=None)
@given(requests, st.integers(8, 20), st.integers(1, 5), st.integers(5, 20), st.sampled_from([None, 6]))
def test_everybody_is_served_within_bounds(requests, blocks, sequences, budget, border):
    one = scheduler(blocks, sequences=sequences, budget=budget, border=border)
    all_of_them = [sequence(prompt, room, priority=priority) for _, prompt, room, priority, _ in requests]
    for now in range(2000):
        for each, (arrival, _, _, _, cancelled) in zip(all_of_them, requests, strict=True):
            if arrival == now:
                one.add(each)
            if cancelled is not None and cancelled + arrival == now:
                one.finish(each)
        plan = step(one)
        assert len(one.running) <= sequences
        assert border is not None or sum(work.count for work in plan.work) <= budget
        assert len({id(work.sequence) for work in plan.work}) == len(plan.work)
        assert plan.work or not (one.waiting or one.running)  # whenever there is work, some is done
        held = Counter(block for each in one.running if each.table for block in each.table.blocks)
        assert one.blocks.holders == [held[block] for block in range(blocks)]
        if now > 30 and not one.waiting and not one.running:
            break
    assert all(each.state == "finished" for each in all_of_them)
    assert one.blocks.free == blocks


def test_several_tokens_at_once_only_while_all_write_and_blocks_suffice():
    one = scheduler(blocks=8)
    first, second = sequence([1, 2, 3], 20), sequence([4], 3)
    one.add(first)
    assert one.tokens_together(one.plan(), 8) == 1, "its prompt is being read"
    one = scheduler(blocks=8)
    first = sequence([1, 2, 3], 20)
    one.add(first)
    step(one)
    plan = one.plan()
    assert one.tokens_together(plan, 8) == 8
    assert len(plan.work[0].table.blocks) == one.blocks.needed(3 + 8)
    assert one.tokens_together(plan, 40) == 19, "it may write no more"
    one.add(second)
    assert one.tokens_together(plan, 8) == 1, "somebody waits"
    step(one)
    plan = one.plan()
    assert one.tokens_together(plan, 8) == 2, "the other one ends before"
    bordered = scheduler(border=40)
    bordered.add(sequence([1, 2, 3], 20))
    step(bordered)
    assert bordered.tokens_together(bordered.plan(), 8) == 1, "positions may change on the way"
    narrow = scheduler(blocks=2)
    narrow.add(sequence([1, 2, 3], 5))
    step(narrow)
    free = narrow.blocks.free
    plan = narrow.plan()
    assert narrow.tokens_together(plan, 8) == 4
    crowded = scheduler(blocks=2)
    crowded.add(sequence([1, 2, 3], 9))
    step(crowded)
    plan = crowded.plan()
    held = len(plan.work[0].table.blocks)
    assert crowded.tokens_together(plan, 8) == 1, "blocks are lacking, and none was taken"
    assert len(plan.work[0].table.blocks) == held
    assert narrow.blocks.free == free - 1
