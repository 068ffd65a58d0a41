"""Texts that begin alike: each beginning is read once, and every token that is judged finds what judges it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dunwu.infer.forest import Row, Slots, passes, segments


def row(ids, first):
    return Row(np.array(ids, np.int32), first)


def test_by_hand():
    """Two questions after one header, with two choices each of which the last token is never read."""
    header = [1, 2, 3]
    rows = [
        row([*header, 7, 8, 9], 5),
        row([*header, 4, 5, 6], 5),
        row([*header, 4, 5, 7], 5),
        row([*header, 7, 8, 5], 5),
    ]
    found = segments(rows)
    assert [(one.row, one.start, one.end) for one in found] == [(1, 0, 5), (0, 3, 5)]
    assert [list(one.wanted) for one in found] == [[(1, 4, 5), (2, 4, 5)], [(0, 4, 5), (3, 4, 5)]]


def test_what_is_judged_may_lie_in_what_others_share():
    rows = [row([1, 2, 3, 4], 1), row([1, 2, 3, 5, 6], 2)]
    found = segments(rows)
    assert [(one.row, one.start, one.end, list(one.wanted)) for one in found] == [
        (0, 0, 3, [(0, 0, 3), (1, 1, 3)]),
        (1, 3, 4, [(1, 3, 4)]),
    ]


def test_apart_each_row_is_read_whole():
    rows = [row([1, 2, 3], 1), row([1, 2, 3], 1)]
    assert [(one.start, one.end) for one in segments(rows, shared=False)] == [(0, 2), (0, 2)]


ROWS = st.lists(
    st.lists(st.integers(0, 2), min_size=2, max_size=12).flatmap(
        lambda ids: st.tuples(st.just(ids), st.integers(1, len(ids) - 1))
    ),
    max_size=25,
)


@given(ROWS, st.integers(1, 9), st.booleans())
def test_every_token_is_judged_by_its_own_text(given_rows, most, whole):
    """The cache is played with lists: a slot holds a token, and at each piece the runs must spell the text up to there."""
    rows = [row(*one) for one in given_rows]
    longest = max((len(one.ids) for one in rows), default=0)
    store = [None] * (longest + most)
    judged = {number: set() for number in range(len(rows))}
    read = 0
    found = segments(rows, shared=not whole)
    for pieces in passes(found, most_tokens=most, slots=Slots(len(store)), whole=whole):
        for piece in pieces:  # all of a pass is written before any of it is looked at
            slots = [slot for start, end in piece.runs for slot in range(start, end)]
            assert len(slots) == piece.end
            ids = rows[piece.segment.row].ids
            for place in range(piece.start, piece.end):
                store[slots[place]] = int(ids[place])
        assert sum(piece.end - piece.start for piece in pieces) <= most or (whole and len(pieces) == 1)
        for piece in pieces:
            text = [store[slot] for start, end in piece.runs for slot in range(start, end)]
            read += piece.end - piece.start
            for number, first, last in piece.segment.wanted:
                for place in range(max(first, piece.start), min(last, piece.end)):
                    assert text[: place + 1] == rows[number].ids[: place + 1].tolist()
                    judged[number].add(place + 1)
    assert judged == {number: set(range(one.first, len(one.ids))) for number, one in enumerate(rows)}
    prefixes = {tuple(one.ids[:place]) for one in rows for place in range(1, len(one.ids))}
    assert read == (sum(len(one.ids) - 1 for one in rows) if whole else len(prefixes))


def test_slots_come_in_few_runs_and_go_back():
    slots = Slots(10)
    first, second, third = slots.take(3), slots.take(4), slots.take(3)
    assert (first, second, third) == ([(0, 3)], [(3, 7)], [(7, 10)])
    slots.give(first)
    slots.give(third)
    assert slots.take(3) == [(0, 3)]
    slots.give([(0, 3)])
    assert sorted(slots.take(5)) in ([(0, 2), (7, 10)], [(0, 3), (7, 9)])
    slots.give(second)
    assert slots.take(4) == [(3, 7)]
