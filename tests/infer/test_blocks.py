"""Blocks: nothing leaks, nothing is freed twice, and a hit is always the same beginning."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dunwu.infer.blocks import BlockManager, Table

SIZE, COUNT = 2, 12
texts = st.lists(st.integers(0, 1), min_size=1, max_size=2 * COUNT)  # two letters, so that beginnings are often shared


class Blocks(RuleBasedStateMachine):
    """`stored` is what a cache of tensors would hold: for each block and place, the salt and the whole text up to there."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = BlockManager(COUNT, SIZE)
        self.open: list[tuple[Table, list[int], int]] = []
        self.stored: dict[tuple[int, int], object] = {}

    def content(self, table: Table, ids: list[int], place: int) -> object:
        return table.salt, tuple(ids[: place + 1])

    def check(self, table: Table, ids: list[int], filled: int) -> None:
        for place in range(filled):
            where = table.blocks[place // SIZE], place % SIZE
            assert self.stored[where] == self.content(table, ids, place)

    def write(self, table: Table, ids: list[int], start: int, end: int) -> bool:
        free, blocks = self.manager.free, list(table.blocks)
        copies = self.manager.reserve(table, start, end)
        if copies is None:
            assert (self.manager.free, table.blocks) == (free, blocks)
            return False
        moved = {
            (new, at): self.stored[old, at] for old, new in copies for at in range(SIZE) if (old, at) in self.stored
        }
        self.stored.update(moved)
        for place in range(start, end):
            assert self.manager.holders[table.blocks[place // SIZE]] == 1
            self.stored[table.blocks[place // SIZE], place % SIZE] = self.content(table, ids, place)
        return True

    @rule(ids=texts, salt=st.sampled_from(["", "adapter"]), reuse=st.booleans())
    def start(self, ids: list[int], salt: str, reuse: bool) -> None:
        table = self.manager.open(ids, salt, reuse=reuse)
        hit = len(table.blocks) * SIZE
        assert hit < len(ids)
        assert reuse or hit == 0
        self.check(table, ids, hit)  # a hit is the same beginning under the same salt
        self.open.append((table, ids, hit))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), count=st.integers(1, 5))
    def read_on(self, data: st.DataObject, count: int) -> None:
        place = data.draw(st.integers(0, len(self.open) - 1))
        table, ids, filled = self.open[place]
        ids = ids + [0] * max(0, filled + count - len(ids))
        if self.write(table, ids, filled, filled + count):
            self.open[place] = table, ids, filled + count
            self.manager.seal(table, ids, filled + count)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), back=st.integers(1, 3), other=st.integers(2, 3))
    def write_again(self, data: st.DataObject, back: int, other: int) -> None:
        """As after a guess that was wrong: the last tokens become others."""
        place = data.draw(st.integers(0, len(self.open) - 1))
        table, ids, filled = self.open[place]
        start = max(0, filled - back)
        ids = [*ids[:start], *[other] * (filled - start), *ids[filled:]]
        if start < filled and self.write(table, ids, start, filled):
            self.open[place] = table, ids, filled
            self.manager.seal(table, ids, filled)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), letter=st.integers(0, 1))
    def fork(self, data: st.DataObject, letter: int) -> None:
        table, ids, filled = data.draw(st.sampled_from(self.open))
        self.open.append((self.manager.fork(table), [*ids[:filled], letter], filled))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        table, _, _ = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.manager.release(table)

    @rule()
    def new_weights(self) -> None:
        self.manager.forget_all()
        assert self.manager.idle == 0
        assert self.manager.found([0] * 9, "") == []

    @invariant()
    def counts_equal_the_tables(self) -> None:
        held = Counter(block for table, _, _ in self.open for block in table.blocks)
        assert self.manager.holders == [held[block] for block in range(COUNT)]
        assert self.manager.free == COUNT - len(held)

    @invariant()
    def tables_hold_what_was_written(self) -> None:
        for table, ids, filled in self.open:
            assert len(table.links) <= filled // SIZE <= len(table.blocks)
            self.check(table, ids, filled)

    def teardown(self) -> None:
        for table, _, _ in self.open:
            self.manager.release(table)
        assert self.manager.free == COUNT
        everything = self.manager.open([7] * SIZE * COUNT, "")
        assert self.manager.reserve(everything, 0, SIZE * COUNT) == []


TestBlocks = Blocks.TestCase
TestBlocks.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def filled(manager: BlockManager, ids: list[int]) -> Table:
    table = manager.open(ids, "")
    assert manager.reserve(table, len(table.blocks) * manager.size, len(ids)) == []
    manager.seal(table, ids, len(ids))
    return table


def test_one_block_of_room_costs_one_block_of_memory_when_evicted_singly(monkeypatch):
    monkeypatch.setattr("dunwu.infer.blocks.EVICT_TOGETHER", 1)
    manager = BlockManager(6, 2)
    old, new = [1, 1, 2, 2, 3, 3], [4, 4, 5, 5, 6, 6]
    for ids in (old, new):
        manager.release(filled(manager, ids))
    assert manager.reserve(Table(""), 0, 2) == []
    assert len(manager.found([*old, 0], "")) == 2  # the end went, the beginning stays
    assert len(manager.found([*new, 0], "")) == 3
    manager.release(manager.open([*old, 0], ""))  # used again: now the other is older
    assert manager.reserve(Table(""), 0, 2) == []
    assert len(manager.found([*old, 0], "")) == 2
    assert len(manager.found([*new, 0], "")) == 2


def test_tables_that_grow_side_by_side_stay_in_one_piece():
    manager = BlockManager(256, 2)
    tables = [Table("") for _ in range(8)]
    for tokens in range(1, 33):
        for table in tables:
            assert manager.reserve(table, tokens - 1, tokens) == []
    for table in tables:
        assert table.blocks == list(range(table.blocks[0], table.blocks[0] + 16))


def test_a_salt_keeps_adapters_apart_and_without_caching_nothing_is_found():
    manager = BlockManager(8, 2)
    manager.release(filled(manager, [1, 2, 3, 4]))
    assert len(manager.found([1, 2, 3, 4, 5], "")) == 2
    assert manager.found([1, 2, 3, 4, 5], "adapter") == []
    plain = BlockManager(8, 2, caching=False)
    plain.release(filled(plain, [1, 2, 3, 4]))
    assert plain.found([1, 2, 3, 4, 5], "") == []
    assert plain.idle == 0
