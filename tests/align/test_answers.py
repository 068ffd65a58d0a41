"""Rows that hold a prompt once, with all its answers, give what each answer by itself gives, and the same gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.align.answers import CHOSEN, REJECTED, UNRELATED, Answer, Item, judge_answers, rows_of
from dunwu.align.stream import AnswerStream
from dunwu.core.devices import prepare_cpu
from dunwu.model.decoder import new_decoder
from tests.model.helpers import lively

from .helpers import CONFIG, item, items, plain_logprob


def test_a_row_by_hand():
    one, other = item([7, 8], [1, 2, 3], [1, 4]), item([9], [5], [6])
    assert (one.trunk, one.length) == (3, 4)  # 7 8 1 | 2, and 4 is only predicted
    assert (other.trunk, other.length) == (1, 1)
    batch = rows_of([one, other], [[0, 1]], 7)
    assert batch.ids_BT.tolist() == [[7, 8, 1, 2, 9, 0, 0]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 3, 0, 0, 0]]
    assert batch.document_BT is not None
    assert batch.branch_BT is not None
    assert batch.document_BT.tolist() == [[0, 0, 0, 0, 1, 2, 2]]
    assert batch.branch_BT.tolist() == [[0, 0, 0, 1, 0, 0, 0]]
    notes = {name: values.tolist() for name, values in batch.annotations.items()}
    assert notes["at_N"] == [1, 2, 3, 1, 2, 4, 4]
    assert notes["target_N"] == [1, 2, 3, 1, 4, 5, 6]
    assert notes["answer_N"] == [0, 0, 0, 1, 1, 2, 3]
    assert notes["tokens_A"] == [3, 2, 1, 1]
    assert notes["kind_A"] == [CHOSEN, REJECTED, CHOSEN, REJECTED]
    assert batch.learned_tokens == 2


def test_apart_each_answer_has_its_prompt():
    batch = rows_of([item([7, 8], [1, 2, 3], [1, 4])], [[0]], 8, share=False)
    assert batch.ids_BT.tolist() == [[7, 8, 1, 2, 7, 8, 1, 0]]
    assert batch.branch_BT is None
    assert batch.document_BT is not None
    assert batch.document_BT.tolist() == [[0, 0, 0, 0, 1, 1, 1, 2]]
    assert batch.annotations["at_N"].tolist() == [1, 2, 3, 5, 6]


def test_what_is_only_read_does_not_count():
    answer = Answer(np.array([1, 2, 3], np.int32), np.array([True, False, True]), CHOSEN)
    one = Item(np.array([7], np.int32), (answer, Answer(np.array([4], np.int32), np.ones(1, bool), REJECTED)))
    notes = rows_of([one], [[0]], 4).annotations
    assert (notes["target_N"].tolist(), notes["tokens_A"].tolist()) == ([1, 3, 4], [2, 1])


@pytest.mark.parametrize("share", [True, False])
def test_equals_each_answer_alone_with_gradients(share):
    prepare_cpu()
    made = items(9)
    model = lively(CONFIG).double()
    stream = AnswerStream(made, least_width=48, seed=3, share=share)
    factors = torch.randn(2 * len(made), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = [stream._row(row) for row in range(stream.rows_per_epoch)]
    order = [number for row in rows for number in row]
    assert sorted(order) == list(range(9))
    ours = judge_answers(model, stream.batch(0, len(rows))).logprobs_A
    theirs = torch.stack([plain_logprob(model, made[number], side) for number in order for side in (0, 1)])
    torch.testing.assert_close(ours, theirs)
    parameters = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad(ours @ factors, parameters), torch.autograd.grad(theirs @ factors, parameters), strict=True
    ):
        torch.testing.assert_close(a, b)


@settings(max_examples=60, deadline=None)
@given(
    prompt=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    answers=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=5), min_size=1, max_size=4),
    share=st.booleans(),
)
def test_every_answer_can_be_read_back_from_its_row(prompt, answers, share):
    one = item(prompt, *answers, kinds=(CHOSEN, REJECTED, UNRELATED, UNRELATED))
    length = one.length if share else one.length_apart
    batch = rows_of([one], [[0]], length, share=share)
    ids, branch = batch.ids_BT[0].tolist(), (batch.branch_BT[0].tolist() if batch.branch_BT is not None else None)
    notes = batch.annotations
    document = batch.document_BT[0].tolist() if batch.document_BT is not None else [0] * length
    for number, answer in enumerate(answers):
        mine = notes["answer_N"] == number
        assert notes["target_N"][mine].tolist() == answer
        for at, before in zip(notes["at_N"][mine].tolist(), range(len(answer)), strict=True):
            seen = [
                ids[place]
                for place in range(at + 1)
                if document[place] == document[at] and (branch is None or branch[place] in (0, branch[at]))
            ]
            assert seen == prompt + answer[:before]
            assert batch.positions_BT[0, at] == len(seen) - 1


def test_the_stream_is_a_pure_function_of_seed_and_row():
    made = items(40)
    stream, again = (AnswerStream(made, least_width=32, seed=5) for _ in range(2))
    assert stream.rows_per_epoch > 4
    whole = stream.batch(0, 3 * stream.rows_per_epoch)
    for row in (3 * stream.rows_per_epoch - 1, 1, stream.rows_per_epoch):
        assert torch.equal(again.batch(row, 1).ids_BT, whole.ids_BT[row : row + 1])
    for epoch in range(3):
        rows = range(epoch * stream.rows_per_epoch, (epoch + 1) * stream.rows_per_epoch)
        assert sorted(number for row in rows for number in stream._row(row)) == list(range(40))
    assert stream.fingerprint == again.fingerprint
    others = [
        AnswerStream(made, least_width=32, seed=6),
        AnswerStream(made[:-1], least_width=32, seed=5),
        AnswerStream(made, least_width=32, seed=5, reference=[np.zeros(2, np.float32)] * 40),
        AnswerStream(made, least_width=32, seed=5, share=False),
    ]
    assert len({stream.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_the_reference_follows_its_answers():
    made = items(20)
    reference = [np.array([number, -number], np.float32) for number in range(20)]
    stream = AnswerStream(made, least_width=32, seed=5, reference=reference)
    expected = [value for row in range(4) for number in stream._row(row) for value in (number, -number)]
    assert stream.batch(0, 4).annotations["reference_A"].tolist() == expected


def test_sharing_needs_fewer_places():
    made = [item(range(1, 21), [1, 2], [3, 4, 5]) for _ in range(8)]
    together, apart = (AnswerStream(made, least_width=32, seed=0, share=share) for share in (True, False))
    assert (together.lengths[0], apart.lengths[0]) == (23, 43)
    model = new_decoder(CONFIG, seed=0)
    for stream in (together, apart):
        assert judge_answers(model, stream.batch(0, 2)).logprobs_A.isfinite().all()
