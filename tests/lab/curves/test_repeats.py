"""Which passages a run had learned from, and what repeats did."""

import math

import numpy as np
import pytest

from dunwu.core.progress import SilentProgress
from dunwu.core.records import Document
from dunwu.corpus.shards import TokenShards, write_shards
from dunwu.corpus.stream import PretrainStream
from dunwu.lab.curves.passages import Passages, of_shards
from dunwu.lab.curves.repeats import by_repeats, copies, times_learned, visits


class Bytes:
    vocab_size, eos_id = 257, 256

    def encode_batch(self, texts):
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]


@pytest.fixture
def shards(tmp_path):
    generator = np.random.default_rng(0)
    letters = lambda count: "".join(map(chr, generator.integers(97, 123, count)))  # noqa: E731
    refrain = letters(40)
    texts = [letters(90), refrain + letters(30), letters(20) + refrain, letters(55) + refrain]
    write_shards((Document(text=text, source="") for text in texts), Bytes(), tmp_path, progress=SilentProgress())
    return TokenShards.open(tmp_path)


@pytest.mark.parametrize("context", [16, 50, 400])
def test_visits_count_the_targets_of_the_rows_that_the_stream_gave(shards, context):
    stream = PretrainStream(shards, context_length=context, seed=3)
    tokens = len(shards)
    marked = np.arange(tokens, dtype=np.int64)  # the stream over places instead of tokens tells where each target stood
    stream._tokens, stream._begin_id = marked, -1
    for rows in (0, 1, 7, 3 * stream.rows_per_epoch + 2):
        counted = np.zeros(tokens, np.int64)
        if rows:
            np.add.at(counted, stream.batch(0, rows).targets_BT.numpy().ravel(), 1)
        assert np.array_equal(visits(stream, tokens, rows), counted)


def test_copies_are_found_where_they_stand(shards):
    tokens = np.asarray(shards.tokens).astype(np.int64)
    begin = int(shards.document_ends[0])
    chosen = Passages(
        ids_NL=np.stack([tokens[begin + 2 : begin + 34], tokens[5:37]]),
        document_N=np.array([1, 0]),
        start_N=np.array([begin + 2, 5]),
    )
    numbers, places = copies(shards.tokens, chosen)
    by_hand = [
        (number, place)
        for place in range(len(tokens) - 31)
        for number in range(2)
        if np.array_equal(tokens[place : place + 32], chosen.ids_NL[number])
    ]
    assert sorted(zip(numbers.tolist(), places.tolist(), strict=True)) == sorted(by_hand)
    assert numbers.tolist().count(0) == 3  # the refrain stands in three documents
    assert numbers.tolist().count(1) == 1


def test_copies_are_found_across_the_pieces_that_are_looked_through(shards, monkeypatch):
    chosen = of_shards(shards, length=20, count=99, seed=0)
    whole = sorted(zip(*map(np.ndarray.tolist, copies(shards.tokens, chosen)), strict=True))
    monkeypatch.setattr("dunwu.lab.curves.repeats.CHUNK", 17)
    assert sorted(zip(*map(np.ndarray.tolist, copies(shards.tokens, chosen)), strict=True)) == whole
    assert len(whole) > len(chosen)


def test_times_learned_add_up_over_copies_and_leave_the_prompt_out():
    visits_V = np.array([9, 9, 1, 1, 0, 0, 9, 9, 3, 3])
    chosen = Passages(ids_NL=np.zeros((2, 4), np.int64), document_N=np.zeros(2, np.int64), start_N=np.array([0, 2]))
    where = (np.array([0, 0, 1]), np.array([0, 6, 2]))
    assert times_learned(visits_V, where, chosen, skip=2).tolist() == [1 + 3, 0]


def test_the_effect_of_repeats_is_found_within_documents():
    """Hard documents hold more of the repeated passages: over all they look as hard as others, within documents they are easier."""
    generator = np.random.default_rng(0)
    document_N = np.repeat(np.arange(20), 20)
    times_N = np.where(generator.random(400) < np.where(document_N % 2, 0.8, 0.2), 4, 0)
    nats_N = 2.0 + 1.0 * (document_N % 2) - 0.5 * (times_N == 4) + generator.normal(0, 0.1, 400)
    never, four = by_repeats(nats_N, times_N, document_N)
    assert (never.least, never.most, never.difference) == (0, 0, None)
    assert (four.least, four.most, four.than, four.matched) == (4, 4, 0, True)
    assert four.difference is not None
    assert four.difference.value == pytest.approx(-0.5, abs=0.03)
    assert four.difference.low < -0.5 < four.difference.high
    assert abs(four.nats.value - never.nats.value) < 0.25  # what one would have said without the match


def test_without_documents_in_common_it_says_that_nothing_is_matched():
    times_N, document_N = np.repeat([0, 1], 10), np.arange(20)
    nats_N = np.where(times_N, 1.0, 3.0) + np.random.default_rng(0).normal(0, 0.1, 20)
    _, once = by_repeats(nats_N, times_N, document_N)
    assert not once.matched
    assert once.difference is not None
    assert once.difference.value == pytest.approx(-2.0, abs=0.1)


def test_classes_of_few_passages_are_not_told():
    classes = by_repeats(np.arange(30.0), np.array([0] * 20 + [7] * 3 + [1] * 7), np.arange(30))
    assert [one.least for one in classes] == [0]
    assert not math.isnan(classes[0].nats.low)
