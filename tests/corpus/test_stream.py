from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.core.errors import DataError
from dunwu.core.progress import SilentProgress
from dunwu.core.records import Document, Tokens
from dunwu.corpus.packing import pack
from dunwu.corpus.shards import TokenShards, write_shards
from dunwu.corpus.stream import Batch, PretrainStream, SftStream, permuted
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import new_decoder
from dunwu.train.objectives import causal_lm


class Numbers:
    """Each document is a text of numbers, which are its ids."""

    vocab_size = 1000
    eos_id = 0

    def encode_batch(self, texts: Any) -> list[np.ndarray]:
        return [np.array([int(word) for word in text.split()], np.int32) for text in texts]


def pretrain(folder: Path, documents: list[list[int]], context_length: int, seed: int = 0) -> PretrainStream:
    records = [Document(text=" ".join(map(str, ids)), source="") for ids in documents]
    write_shards(records, Numbers(), folder, progress=SilentProgress())
    return PretrainStream(TokenShards.open(folder), context_length=context_length, seed=seed)


def rows_equal(one: Batch, other: Batch) -> bool:
    names = ("ids_BT", "targets_BT", "positions_BT")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


# The order


@given(size=st.integers(1, 300), key=st.tuples(*[st.integers(0, 2**64 - 1)] * 4))
@settings(max_examples=60, deadline=None)
def test_permuted_meets_every_index_once(size: int, key: tuple[int, ...]) -> None:
    assert sorted(permuted(i, size, key) for i in range(size)) == list(range(size))


def test_permuted_works_at_any_size_and_mixes() -> None:
    key = (3, 1, 4, 1)
    places = np.array([permuted(i, 10**15, key) for i in range(2000)]) / 10**15
    assert places.max() < 1
    assert abs(places.mean() - 0.5) < 0.03  # uniform: 4.6 standard errors
    assert abs(np.corrcoef(places[1:], places[:-1])[0, 1]) < 0.1


def test_a_row_depends_on_its_number_and_the_seed_alone(tmp_path: Path) -> None:
    documents = [list(range(1, 200)), list(range(200, 500))]
    stream = pretrain(tmp_path, documents, 16)
    many = stream.batch(0, 100)  # three epochs
    again = PretrainStream(TokenShards.open(tmp_path), context_length=16, seed=0)
    for first, rows in ((7, 1), (28, 5), (95, 5)):
        part = again.batch(first, rows)
        assert torch.equal(part.ids_BT, many.ids_BT[first : first + rows])
        assert torch.equal(part.targets_BT, many.targets_BT[first : first + rows])
    other = PretrainStream(TokenShards.open(tmp_path), context_length=16, seed=1)
    assert not rows_equal(other.batch(0, 5), stream.batch(0, 5))
    assert other.fingerprint != stream.fingerprint


def test_an_epoch_learns_every_token_once_but_for_the_rest_of_the_division(tmp_path: Path) -> None:
    stream = pretrain(tmp_path, [list(range(1, 100)), list(range(100, 500))], 16)
    tokens = 501
    orders: list[list[int]] = []
    for epoch in range(3):
        batch = stream.batch(epoch * stream.rows_per_epoch, stream.rows_per_epoch)
        seen = batch.targets_BT.flatten().tolist()
        assert len(set(seen) - {0}) >= len(seen) - 2  # the end-of-text id stands twice in this corpus
        assert len(seen) == tokens // 16 * 16
        orders.append(seen)
    assert orders[0] != orders[1] != orders[2]


# What a row holds


def test_a_row_across_documents_by_hand(tmp_path: Path) -> None:
    stream = pretrain(tmp_path, [[1, 2, 3], [4, 5]], 7)  # the ring 1 2 3 0 4 5 0, one row an epoch
    batch = stream.batch(0, 1)
    start = batch.ids_BT[0, 0].item()
    ring = [1, 2, 3, 0, 4, 5, 0]
    while ring[0] != start or (start == 0 and ring[1] != batch.ids_BT[0, 1].item()):
        ring = ring[1:] + ring[:1]
    assert batch.ids_BT[0].tolist() == ring
    assert batch.targets_BT[0].tolist() == ring[1:] + ring[:1]
    numbers, positions, document, position = [], [], 0, -1
    for column, token in enumerate(ring):
        begins = token == 0 and column > 0  # the id that ended one document is the first input of the next
        document, position = (document + 1, 0) if begins else (document, position + 1)
        numbers.append(document)
        positions.append(position)
    assert batch.document_BT is not None
    assert batch.document_BT[0].tolist() == numbers
    assert batch.positions_BT[0].tolist() == positions
    assert batch.learned_tokens == 7


def test_rows_within_one_document_need_no_mask(tmp_path: Path) -> None:
    stream = pretrain(tmp_path, [list(range(1, 400)), [500] * 16], 16)
    for row in range(3 * stream.rows_per_epoch):
        batch = stream.batch(row, 1)
        crosses = bool((batch.ids_BT[0, 1:] == 0).any())
        assert (batch.document_BT is not None) == crosses
        if not crosses:
            assert batch.positions_BT[0].tolist() == list(range(16))


def test_a_corpus_shorter_than_a_row_fills_it_by_going_round(tmp_path: Path) -> None:
    batch = pretrain(tmp_path, [[1, 2]], 8).batch(0, 3)
    text = batch.ids_BT[0].tolist()
    assert sorted(set(text)) == [0, 1, 2]
    assert all((a, b) in {(1, 2), (2, 0), (0, 1)} for a, b in pairwise(text))


# Packing


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=120))
@settings(max_examples=100, deadline=None)
def test_packing_places_everything_once_within_capacity_and_close_to_the_fewest_rows(lengths: list[int]) -> None:
    packing = pack(np.array(lengths, np.int64), 40)
    ranked = sorted(lengths, reverse=True)
    places = [packing.places(row).tolist() for row in range(packing.rows)]
    assert sorted(place for row in places for place in row) == list(range(len(lengths)))
    assert all(sum(ranked[place] for place in row) <= 40 for row in places)
    fewest = -(-sum(lengths) // 40)
    assert packing.rows <= 2 * fewest  # any-fit packs to more than half on average


def test_packing_fills_the_fullest_row_that_still_takes_it() -> None:
    packing = pack(np.array([7, 5, 3, 5], np.int64), 10)
    assert sorted(sorted(packing.places(row).tolist()) for row in range(packing.rows)) == [[0, 3], [1, 2]]


def conversation(ids: list[int], learned: list[int]) -> Tokens:
    return Tokens(ids=np.array(ids, np.int32), learned=np.array(learned, bool))


def test_sft_row_by_hand() -> None:
    one = conversation([1, 2, 3, 4, 5], [0, 0, 0, 1, 1])
    two = conversation([6, 7, 8], [0, 1, 1])
    batch = SftStream([one, two], context_length=8, seed=0).batch(0, 1)
    assert batch.ids_BT.tolist() == [[1, 2, 3, 4, 6, 7, 0, 0]]
    assert batch.targets_BT.tolist() == [[-100, -100, 4, 5, 7, 8, -100, -100]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 3, 0, 1, 0, 1]]
    assert batch.document_BT is not None
    assert batch.document_BT.tolist() == [[0, 0, 0, 0, 1, 1, 2, 2]]
    assert batch.learned_tokens == 4


def test_a_long_conversation_loses_its_old_end_and_keeps_the_end_of_turn() -> None:
    ids = list(range(1, 31))
    batch = SftStream([conversation(ids, [0] * 20 + [1] * 10)], context_length=8, seed=0).batch(0, 1)
    assert batch.ids_BT[0].tolist() == ids[-9:-1]
    assert batch.targets_BT[0].tolist() == ids[-8:]


def test_every_conversation_once_an_epoch_in_another_order() -> None:
    generator = np.random.default_rng(0)
    conversations = [
        conversation([i] * n, [0] + [1] * (n - 1)) for i, n in enumerate(generator.integers(2, 12, 200), 1)
    ]
    stream = SftStream(conversations, context_length=16, seed=3)
    orders = []
    for epoch in range(2):
        batch = stream.batch(epoch * stream.rows_per_epoch, stream.rows_per_epoch)
        targets = batch.targets_BT[batch.targets_BT != -100]
        counts = torch.bincount(targets, minlength=201)[1:].tolist()
        assert counts == [len(c.ids) - 1 for c in conversations]
        orders.append(targets.tolist())
    assert orders[0] != orders[1]
    assert rows_equal(SftStream(conversations, context_length=16, seed=3).batch(5, 4), stream.batch(5, 4))


def test_packed_conversations_give_the_loss_of_each_alone() -> None:
    config = DecoderConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=32,
    )  # fmt: skip
    model = new_decoder(config, seed=0)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=1.0)
    generator = np.random.default_rng(1)
    conversations = [conversation(list(generator.integers(1, 50, n)), [0, 0] + [1] * (n - 2)) for n in (5, 9, 12, 7, 3)]

    def total(stream: SftStream) -> float:
        return causal_lm(model, stream.batch(0, stream.rows_per_epoch), total_learned=1)[0].item()

    packed = SftStream(conversations, context_length=20, seed=0)
    assert packed.rows_per_epoch < len(conversations)
    alone = sum(total(SftStream([c], context_length=20, seed=0)) for c in conversations)
    assert total(packed) == pytest.approx(alone, rel=1e-5)


def test_conversations_without_a_learned_token_are_refused() -> None:
    with pytest.raises(DataError, match="none of 1 conversations"):
        SftStream([conversation([1, 2, 3], [1, 0, 0])], context_length=8, seed=0)
