"""Passages lie within documents; what is read of them is what the engine would write."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.lab.curves.memorised import excess_p_value, is_memorised, memorised_share
from dunwu.lab.curves.passages import choose_passages, of_texts
from dunwu.lab.curves.reading import read_texts
from dunwu.model.decoder import Decoder, new_decoder

from .tiny import CONFIG, memorise


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 20), st.integers(1, 40), st.integers(0, 9))
def test_passages_lie_within_documents_and_none_overlaps_another(lengths, length, count, seed):
    ends = np.cumsum(lengths)
    tokens = np.arange(ends[-1])
    found = choose_passages(tokens, ends, length=length, count=count, seed=seed)
    assert len(found) <= count
    assert np.array_equal(found.ids_NL, found.start_N[:, None] + np.arange(length)) or len(found) == 0
    for start, document in zip(found.start_N.tolist(), found.document_N.tolist(), strict=True):
        begin = ends[document - 1] if document else 0
        assert begin <= start
        assert start + length <= ends[document] - 1  # the end-of-text id is not in it
    assert (np.diff(np.sort(found.start_N)) >= length).all()
    if any(own - 1 >= length for own in lengths):
        assert len(found) >= 1


def test_all_stretches_of_a_text_are_drawn_when_asked_for_more():
    texts = [np.arange(100, dtype=np.int32), np.arange(7, dtype=np.int32)]
    found = of_texts(texts, length=10, count=99, seed=1)
    assert len(found) in (9, 10)
    assert set(found.document_N.tolist()) == {0}


def test_losses_are_those_of_the_logits_whatever_stands_before():
    model = new_decoder(CONFIG, seed=0)
    ids_NL = np.random.default_rng(0).integers(0, 64, (5, 12))
    read = read_texts(model, ids_NL, before=(3, 4))
    with torch.no_grad():
        both = torch.cat((torch.tensor([[3, 4]]).expand(5, -1), torch.from_numpy(ids_NL)), 1)
        logprobs = model.logits(model(both)).log_softmax(-1)[:, 2:-1]
    wanted = -logprobs.gather(-1, torch.from_numpy(ids_NL[:, 1:, None]))[..., 0]
    np.testing.assert_allclose(read.nats_NT, wanted.numpy(), atol=1e-5)


def greedy(model: Decoder, prompt: list[int], count: int) -> list[int]:
    """Token by token, each from the whole text anew."""
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model.logits(model(torch.tensor([ids]))[:, -1]).argmax()))
    return ids[len(prompt) :]


@pytest.fixture(scope="module")
def planted():
    """Texts, and a model that learned the first half of them by heart."""
    ids_NL = np.random.default_rng(1).integers(0, 64, (16, 16))
    return ids_NL, memorise(ids_NL[:8], steps=150)


def test_planted_text_is_found_and_held_out_text_is_not(planted):
    ids_NL, model = planted
    memorised_N = is_memorised(read_texts(model, ids_NL).likeliest_NT, 10)
    assert memorised_N.tolist() == [True] * 8 + [False] * 8
    learned, control = (memorised_share(memorised_N[own], np.arange(8)) for own in (slice(8), slice(8, 16)))
    assert learned.value == 1.0
    assert control.value == 0.0
    assert learned.low > control.high


def test_one_pass_says_what_greedy_decoding_would_give(planted):
    ids_NL, model = planted
    changed = ids_NL.copy()
    changed[:4, 13] = (changed[:4, 13] + 1) % 64  # known by heart but for one token of the continuation
    changed[4:8, 2] = (changed[4:8, 2] + 1) % 64  # and of the prompt
    memorised_N = is_memorised(read_texts(model, changed).likeliest_NT, 10)
    for row, memorised in zip(changed.tolist(), memorised_N.tolist(), strict=True):
        assert (greedy(model, row[:6], 10) == row[6:]) == memorised
    assert not memorised_N[:4].any()


def test_the_excess_over_the_control_is_judged_by_whole_documents():
    document_N = np.repeat(np.arange(18), 20)
    learned, control = np.arange(360) % 5 == 0, np.zeros(60, bool)
    spread = excess_p_value(learned, document_N, control, np.repeat(np.arange(10), 6), seed=0)
    assert spread < 0.001  # each document of the one side has some, none of the other
    in_one = document_N == 3  # as many passages, all of one document: it might have been held out as well
    assert excess_p_value(in_one, document_N, control, np.repeat(np.arange(10), 6), seed=0) > 0.3
    assert excess_p_value(control, np.arange(60), control, np.arange(60), seed=0) == 1.0


def test_two_documents_against_two_can_never_be_told_apart():
    """Of six ways to choose two of four one is as extreme."""
    p = excess_p_value(np.ones(4, bool), np.array([0, 0, 1, 1]), np.zeros(4, bool), np.array([0, 0, 1, 1]), seed=0)
    assert p == pytest.approx(1 / 6, abs=0.03)
