"""Replay: the share is kept, rows are a pure function of seed and number, and batches do not depend on how they are cut."""

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.core.errors import RecipeError
from dunwu.corpus.mix import MixedStream
from dunwu.corpus.stream import Batch


class Numbers:
    """A stream whose rows say which they are; every third row holds two documents."""

    context_length, rows_per_epoch = 4, 50

    def __init__(self, sign: int) -> None:
        self.sign, self.fingerprint = sign, f"numbers{sign}"

    def batch(self, first_row, rows):
        numbers = torch.arange(first_row, first_row + rows)
        ids = self.sign * (numbers[:, None] * 10 + torch.arange(4))
        two = (numbers % 3 == 0)[:, None] & (torch.arange(4) >= 2)
        return Batch(ids_BT=ids, targets_BT=ids + 1, positions_BT=ids * 0,
                     document_BT=two.long() if two.any() else None, learned_tokens=4 * rows)  # fmt: skip


def mixed(share, seed=0):
    return MixedStream(Numbers(1), Numbers(-1), share=share, seed=seed)


def rows(stream, first, count):
    return (stream.batch(first, count).ids_BT[:, 1]).tolist()


SHARES = st.floats(min_value=0.001, max_value=0.999).map(lambda x: round(x, 3)).filter(lambda x: 0 < x < 1)


@given(SHARES, st.integers(0, 2**40), st.integers(1, 300), st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_any_stretch_holds_the_share_to_within_one_row(share, first, count, seed):
    stream = mixed(share, seed)
    others = stream.others_before(first + count) - stream.others_before(first)
    assert abs(others - count * share) <= 1


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_each_stream_is_read_in_its_own_order_without_a_gap(share):
    seen = rows(mixed(share), 0, 200)
    for sign in (1, -1):
        own = [value // 10 if value > 0 else -value // 10 for value in seen if value * sign > 0]
        assert own == list(range(len(own)))
    assert sum(value < 0 for value in seen) == pytest.approx(200 * share, abs=1)


@given(SHARES, st.integers(0, 100), st.lists(st.integers(1, 9), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_batches_do_not_depend_on_how_the_rows_are_cut(share, first, sizes):
    stream = mixed(share)
    whole = stream.batch(first, sum(sizes))
    at, parts = first, []
    for size in sizes:
        parts.append(stream.batch(at, size))
        at += size
    for field in fields(Batch):
        if field.name == "learned_tokens":
            assert sum(part.learned_tokens for part in parts) == whole.learned_tokens
        elif getattr(whole, field.name) is None:
            assert all(getattr(part, field.name) is None for part in parts)
        elif isinstance(getattr(whole, field.name), torch.Tensor) and field.name != "document_BT":
            assert torch.equal(torch.cat([getattr(part, field.name) for part in parts]), getattr(whole, field.name))
    documents = [part.ids_BT * 0 if part.document_BT is None else part.document_BT for part in parts]
    assert torch.equal(torch.cat(documents), whole.ids_BT * 0 if whole.document_BT is None else whole.document_BT)


def test_the_seed_chooses_where_the_replay_begins_and_the_fingerprint_knows_every_part():
    assert len({tuple(rows(mixed(0.05, seed), 0, 20)) for seed in range(20)}) > 3
    assert rows(mixed(0.05, 3), 0, 40) == rows(mixed(0.05, 3), 0, 40)
    streams = [mixed(0.05), mixed(0.06), mixed(0.05, 1), MixedStream(Numbers(1), Numbers(1), share=0.05, seed=0)]
    assert len({stream.fingerprint for stream in streams}) == 4


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5])
def test_a_share_that_mixes_nothing_is_refused(share):
    with pytest.raises(RecipeError, match="between 0 and 1"):
        mixed(share)
