"""How often the conversations of several sources are met, and in which order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.core.records import Tokens
from dunwu.corpus.source_mix import Mix, per_pass
from dunwu.corpus.stream import SftStream


@pytest.mark.parametrize(
    ("sizes", "weights", "caps", "temperature", "counts"),
    [
        ([100, 10], [1, 1], [None, None], 1, (100, 10)),
        ([100, 10], [1, 3], [None, None], 1, (100, 30)),
        ([100, 10], [0.25, 1], [None, None], 1, (25, 10)),
        ([100, 10], [1, 1], [30, 30], 1, (30, 10)),  # FLAN's cap
        ([100, 10], [2, 1], [30, None], 1, (60, 10)),
        ([900, 100], [1, 1], [None, None], 2, (750, 250)),  # roots 30 : 10 of 1,000
        ([900, 100], [1, 2], [None, None], 2, (660, 440)),  # 30 : 20 of 1,100
        ([900, 100], [1, 1], [None, None], 1e9, (500, 500)),
        ([100_000, 1], [1, 0.001], [None, None], 1, (100_000, 1)),  # never none
    ],
)
def test_counts_by_hand(sizes, weights, caps, temperature, counts):
    assert per_pass(sizes, weights=weights, caps=caps, temperature=temperature) == counts


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    data=st.data(),
    passes=st.integers(1, 6),
    seed=st.integers(0, 5),
)
@settings(max_examples=80, deadline=None)
def test_over_the_passes_each_conversation_of_a_source_comes_equally_often(sizes, data, passes, seed):
    counts = tuple(data.draw(st.integers(1, 50)) for _ in sizes)
    mix = Mix(sizes=tuple(sizes), per_pass=counts)
    met = np.zeros(sum(sizes), int)
    for number in range(passes):
        members = mix.members(seed, number)
        assert len(members) == sum(counts)
        met += np.bincount(members, minlength=len(met))
    for source, times in enumerate(np.split(met, np.cumsum(sizes)[:-1])):
        assert times.sum() == passes * counts[source]
        assert times.max() - times.min() <= 1


def test_another_seed_or_pass_draws_other_conversations():
    mix = Mix(sizes=(1000,), per_pass=(100,))
    first = set(mix.members(0, 0).tolist())
    assert first != set(mix.members(1, 0).tolist())
    assert not first & set(mix.members(0, 1).tolist())  # nothing twice before all are met
    assert first == set(mix.members(0, 0).tolist())


def conversation(number: int, length: int) -> Tokens:
    return Tokens(ids=np.full(length, number, np.int32), learned=np.array([False] + [True] * (length - 1)))


def test_a_row_is_a_pure_function_of_its_number_where_passes_differ():
    generator = np.random.default_rng(0)
    conversations = [conversation(number, int(size)) for number, size in enumerate(generator.integers(2, 12, 60), 1)]
    mix = Mix(sizes=(50, 10), per_pass=(20, 15))
    stream = SftStream(conversations, context_length=16, seed=3, mix=mix)
    whole = stream.batch(0, 80)
    for first in (71, 5, 40, 0):
        fresh = SftStream(conversations, context_length=16, seed=3, mix=mix)
        part = fresh.batch(first, 8)
        assert torch.equal(part.ids_BT, whole.ids_BT[first : first + 8])
        assert torch.equal(part.targets_BT, whole.targets_BT[first : first + 8])


def test_a_pass_holds_what_the_mix_says():
    conversations = [conversation(number, 5) for number in range(1, 13)]
    mix = Mix(sizes=(8, 4), per_pass=(4, 8))
    stream = SftStream(conversations, context_length=8, seed=0, mix=mix)
    assert stream.rows_per_epoch == 6
    assert stream.filled == 1.0
    for number in range(3):
        batch = stream.batch(6 * number, 6)
        times = torch.bincount(batch.targets_BT[batch.targets_BT > 0], minlength=13)[1:] // 4
        assert times[:8].sum() == 4
        assert times[8:].tolist() == [2, 2, 2, 2]


def test_a_mix_of_other_conversations_is_refused():
    with pytest.raises(ValueError, match="a mix of 3 conversations for 1"):
        SftStream([conversation(1, 4)], context_length=8, seed=0, mix=Mix(sizes=(3,), per_pass=(3,)))
