"""Who holds which block of the key/value cache. Plain Python: a block is a number, what it holds is a tensor's business.

A sequence's table lists its blocks in the order of its tokens. Blocks are counted by the tables that hold them. A full block is
known by its tokens, the block before it and the salt of its table, so that another text with the same beginning finds it (the
idea is vLLM's, arXiv:2309.06180, and its automatic prefix caching); the chain is compared itself, not its hash, and so a hit
is never wrong. A known block that nobody holds stays until its room is needed, the longest unused first.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

EVICT_TOGETHER = 32
"""Blocks that make room at a time: neighbours join to holes, in which a growing table stays in one piece."""

Copy = tuple[int, int]
"""A block and the block that becomes its copy."""
_Key = tuple[Hashable, tuple[int, ...]]


@dataclass(slots=True)
class Table:
    """The blocks of one sequence; the first `len(links)` of them are full and known by their content."""

    salt: Hashable
    blocks: list[int] = field(default_factory=list[int])
    links: list[Hashable] = field(default_factory=list[Hashable])


class BlockManager:
    """Gives out blocks 0 to `count - 1`, each of `size` tokens. With `caching` off no block is found by its content."""

    def __init__(self, count: int, size: int, *, caching: bool = True) -> None:
        self.count, self.size, self.caching = count, size, caching
        self.holders = [0] * count
        self.looked_up_tokens = self.hit_tokens = 0
        self._holes = _Holes(count)
        self._idle: OrderedDict[int, None] = OrderedDict()  # known, held by nobody; the longest unused first
        self._known: dict[_Key, tuple[int, Hashable]] = {}
        self._key_of: dict[int, _Key] = {}
        self._links = 0

    @property
    def free(self) -> int:
        """Blocks that can be given out, those among them that still hold something known."""
        return self._holes.total + len(self._idle)

    @property
    def idle(self) -> int:
        """Known blocks that nobody holds."""
        return len(self._idle)

    def needed(self, tokens: int) -> int:
        """Blocks for so many tokens."""
        return -(-tokens // self.size)

    def found(self, ids: Sequence[int], salt: Hashable) -> list[int]:
        """The known blocks with which these ids begin; at least one token stays to be read, for its logits are wanted."""
        return [block for block, _ in self._chain(ids, salt)]

    def open(self, ids: Sequence[int], salt: Hashable, *, reuse: bool = True) -> Table:
        """A table that begins with the known blocks of `ids`; how many tokens they hold is `len(table.blocks) * size`."""
        table = Table(salt)
        for block, link in self._chain(ids, salt) if reuse else ():
            self._hold(block)
            table.blocks.append(block)
            table.links.append(link)
        self.looked_up_tokens += len(ids)
        self.hit_tokens += len(table.blocks) * self.size
        return table

    def reserve(self, table: Table, start: int, end: int) -> list[Copy] | None:
        """Make sure that tokens `start` to `end` may be written: blocks of its own, new ones and copies of shared ones.

        Gives the copies to be made before anything is written, or None, with nothing changed, when blocks are lacking.
        """
        first, last = start // self.size, self.needed(end)
        if (
            first + 1 == last == len(table.blocks)
            and len(table.links) <= first
            and self.holders[table.blocks[first]] == 1
        ):
            return []  # what most steps ask: the next tokens of a text's own last block
        shared = [
            place for place in range(first, min(last, len(table.blocks))) if self.holders[table.blocks[place]] > 1
        ]
        new = max(0, last - len(table.blocks))
        if len(shared) + new > self.free:
            return None
        self._make_holes(len(shared) + new)
        copies: list[Copy] = []
        for place in shared:
            old = table.blocks[place]
            table.blocks[place] = self._take(table.blocks[place - 1] if place else None, new + 1)
            self._drop(old)
            copies.append((old, table.blocks[place]))
        for left in range(new, 0, -1):
            table.blocks.append(self._take(table.blocks[-1] if table.blocks else None, left))
        # What is written again is no longer what it was known as.
        for place in range(first, min(len(table.links), last)):
            self._forget(table.blocks[place])
        del table.links[first:]
        return copies

    def seal(self, table: Table, ids: Sequence[int], filled: int) -> None:
        """Make the full blocks among the first `filled` tokens known; `ids` are those of the whole sequence."""
        if not self.caching:
            return
        for place in range(len(table.links), filled // self.size):
            parent = table.links[-1] if table.links else ("start", table.salt)
            key = (parent, tuple(ids[place * self.size : (place + 1) * self.size]))
            if key not in self._known:
                self._links += 1
                self._known[key] = table.blocks[place], self._links
                self._key_of[table.blocks[place]] = key
            table.links.append(self._known[key][1])

    def fork(self, table: Table) -> Table:
        """Another holder of the same blocks; whoever writes first copies."""
        for block in table.blocks:
            self._hold(block)
        return Table(table.salt, list(table.blocks), list(table.links))

    def release(self, table: Table) -> None:
        """Let go of all blocks. The end of a text becomes room before its beginning, which others may share."""
        while table.blocks:
            self._drop(table.blocks.pop())
        table.links.clear()

    def forget_all(self) -> None:
        """Nothing is known any more: the weights changed. Tables keep their blocks."""
        self._known.clear()
        self._key_of.clear()
        while self._idle:
            self._holes.add(self._idle.popitem()[0])

    def _chain(self, ids: Sequence[int], salt: Hashable) -> list[tuple[int, Hashable]]:
        chain: list[tuple[int, Hashable]] = []
        parent: Hashable = ("start", salt)
        for start in range(0, len(ids) - self.size, self.size) if self._known else ():
            entry = self._known.get((parent, tuple(ids[start : start + self.size])))
            if entry is None:
                break
            chain.append(entry)
            parent = entry[1]
        return chain

    def _hold(self, block: int) -> None:
        if self.holders[block] == 0:
            del self._idle[block]
        self.holders[block] += 1

    def _drop(self, block: int) -> None:
        assert self.holders[block] > 0, f"block {block} is let go twice"
        self.holders[block] -= 1
        if self.holders[block] == 0:
            if block in self._key_of:
                self._idle[block] = None
            else:
                self._holes.add(block)

    def _forget(self, block: int) -> None:
        if (key := self._key_of.pop(block, None)) is not None:
            del self._known[key]

    def _make_holes(self, wanted: int) -> None:
        lacking = wanted - self._holes.total
        if lacking > 0:
            for _ in range(min(max(lacking, EVICT_TOGETHER), len(self._idle))):
                block = self._idle.popitem(last=False)[0]
                self._forget(block)
                self._holes.add(block)

    def _take(self, after: int | None, wanted: int) -> int:
        """A free block: the next one of the table if it can be had, else one with room for `wanted` and more behind it."""
        block = None if after is None else self._holes.take(after + 1)
        if block is None:
            start, end = self._holes.largest()
            # Two tables grow upwards: the second one starts in the middle of the first one's room.
            behind_another = start > 0 and self.holders[start - 1] > 0 and end - start >= 2 * wanted
            block = self._holes.take((start + end) // 2 if behind_another else start)
        assert block is not None
        self.holders[block] = 1
        return block


class _Holes:
    """Runs of free blocks, joined where they touch."""

    def __init__(self, count: int) -> None:
        self.total = count
        self._end = {0: count} if count else {}
        self._start = {count: 0} if count else {}

    def add(self, block: int) -> None:
        start, end = self._start.pop(block, block), self._end.pop(block + 1, block + 1)
        self._put(start, end)
        self.total += 1

    def largest(self) -> tuple[int, int]:
        return max(self._end.items(), key=lambda hole: (hole[1] - hole[0], -hole[0]))

    def take(self, block: int) -> int | None:
        """This block if it is the first of a hole, or lies within the largest; None where it is not free."""
        start = block if block in self._end else None
        if start is None:
            if not self._end:
                return None
            start = self.largest()[0]
            if not start <= block < self._end[start]:
                return None
        end = self._end.pop(start)
        del self._start[end]
        if start < block:
            self._put(start, block)
        if block + 1 < end:
            self._put(block + 1, end)
        self.total -= 1
        return block

    def _put(self, start: int, end: int) -> None:
        self._end[start], self._start[end] = end, start
