"""The baselines are what we must beat, so they must be right and strong: hand-worked, normalised, and never fooled."""

import lzma
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.core.errors import DataError
from dunwu.core.records import Document
from dunwu.evaluate import baselines
from dunwu.evaluate.heldout import by_document, choose_text


def _codes(text: str) -> np.ndarray:
    return np.array(["abcd".index(letter) for letter in text])


def test_ngram_equals_a_hand_worked_example():
    # Training "abab", "abb"; alphabet abcd; one symbol of context. Too few counts of counts: every discount is 1/2.
    # Bigrams: ab 3, ba 1, bb 1. Distinct left neighbours: a {b}, b {a, b}: 3 types in all.
    # Unigram: p(a) = (1 - .5)/3 + (1/3)(1/4) = .25; p(b) = (2 - .5)/3 + 1/12 = 7/12; p(c) = p(d) = 1/12.
    # After b: total 2, types 2, backoff 1/2: p(a|b) = .5/2 + .5 * .25 = .375; p(b|b) = .25 + .5 * 7/12; p(c|b) = 1/24.
    # After a: total 3, backoff 1/6: p(b|a) = 2.5/3 + (1/6)(7/12).
    model = baselines.NgramModel([_codes("abab"), _codes("abb")], alphabet=4, order=1)
    expected = [0.25, 2.5 / 3 + 7 / 72, 0.25 + 7 / 24, 1 / 24, 1 / 12]
    assert 2 ** -model.bits(_codes("abbcd")) == pytest.approx(expected)


def _sum_to_one(training: list[str], history: str, order: int) -> float:
    model = baselines.NgramModel([_codes(text) for text in training], alphabet=4, order=order)
    return sum(2 ** -model.bits(_codes(history + letter))[-1] for letter in "abcd")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abcd", max_size=40), max_size=5), st.text("abcd", max_size=8), st.integers(0, 5))
def test_ngram_probabilities_sum_to_one_after_any_history(training, history, order):
    assert _sum_to_one(training, history, order) == pytest.approx(1.0)


def test_ngram_probabilities_sum_to_one_with_estimated_discounts():
    text = "".join(np.random.default_rng(0).choice(list("abcd"), 3000, p=[0.6, 0.2, 0.15, 0.05]))
    assert _sum_to_one([text, text[::-1]], "abcab", 5) == pytest.approx(1.0)
    assert _sum_to_one([text], "ddddd", 5) == pytest.approx(1.0)


def test_ngram_does_not_look_across_documents():
    model = baselines.NgramModel([_codes("aaab")] + [_codes("ba")] * 30, alphabet=4, order=3)
    apart = model.bits(_codes("ab"))
    assert apart[1] > 0.5  # "ab" was seen once, inside one document; the 30 borders a|b do not count as evidence


def test_ngram_approaches_the_entropy_of_a_known_source():
    """A first-order Markov chain with entropy rate known in closed form: the model may not be better, and must come close."""
    rng = np.random.default_rng(3)
    rows = np.array([[0.7, 0.1, 0.1, 0.1], [0.05, 0.05, 0.8, 0.1], [0.25, 0.25, 0.25, 0.25], [0.9, 0.02, 0.02, 0.06]])
    values, vectors = np.linalg.eig(rows.T)
    steady = np.real(vectors[:, np.argmax(np.real(values))])
    entropy = float(-(steady / steady.sum()) @ np.sum(rows * np.log2(rows), axis=1))

    def chain(length: int) -> np.ndarray:
        state, out, edges = 0, np.empty(length, dtype=np.int64), np.cumsum(rows, axis=1)
        for i, draw in enumerate(rng.random(length)):
            out[i] = state = int(np.searchsorted(edges[state], draw))
        return out

    model = baselines.NgramModel([chain(60_000)], alphabet=4, order=5)
    bits = model.bits(chain(20_000)).mean()
    assert entropy - 0.03 < bits < entropy + 0.05


def test_sorting_of_packed_words_equals_numpy_unique():
    rng = np.random.default_rng(0)
    for top in (5, 2**40, 2**62):  # the last doesn't fit beside the place and takes the slow path
        key = rng.integers(0, top, 500)
        values, first, inverse, occurrences = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
        ours = baselines._number(key.copy())
        for got, wanted in zip(ours, (values, first, inverse, occurrences), strict=True):
            assert np.array_equal(got, wanted)


def test_unknown_characters_cost_a_whole_code_point_and_bytes_cost_the_same_anywhere():
    [known] = baselines.character_ngram_bits(["床前明月光" * 50], ["明月光"])
    [unknown] = baselines.character_ngram_bits(["床前明月光" * 50], ["明月😀"])
    assert unknown > known + math.log2(baselines.UNICODE_SCALARS - 5)
    assert baselines.byte_ngram_bits([], ["any text", "中"]) == pytest.approx([8 * 8, 3 * 8])


def test_xz_is_what_the_command_gives():
    texts = ["the quick brown fox. " * 20, "jumps over the lazy dog. " * 20]
    data = "".join(texts).encode()
    assert baselines.xz_bits_per_byte(texts) == 8 * len(lzma.compress(data, preset=9)) / len(data)


def test_xz_given_the_text_itself_needs_next_to_nothing():
    rng = np.random.default_rng(0)
    text = "".join(map(chr, rng.integers(32, 127, 20_000)))
    assert baselines.xz_bits_per_byte([text]) > 6
    assert baselines.xz_bits_per_byte_given([text], [text], max_train_bytes=10**6) < 0.1
    assert baselines.xz_bits_per_byte_given([text], [text], max_train_bytes=10_000) == pytest.approx(3.3, abs=0.5)


def test_take_bytes_cuts_at_a_character_and_reads_no_further():
    def texts():
        yield "ab"
        yield "中文"
        raise AssertionError("read past the limit")

    assert baselines.take_bytes(texts(), 6) == ["ab", "中"]


def _documents(*texts: str) -> list[Document]:
    return [Document(text=text, source=f"{i}.txt", language="en") for i, text in enumerate(texts)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), min_size=1), st.integers(40, 400))
def test_chosen_pieces_are_stretches_of_the_documents_within_the_limit(texts, max_bytes):
    documents = _documents(*texts)
    if not any(texts):
        with pytest.raises(DataError, match="no text"):
            choose_text(documents, max_bytes=max_bytes)
        return
    chosen = choose_text(documents, max_bytes=max_bytes, piece_bytes=30)
    assert chosen.bytes <= max_bytes
    assert chosen.bytes_total == sum(len(text.encode()) for text in texts)
    for piece in chosen.pieces:
        data = texts[piece.document].encode()
        assert data[piece.start_byte : piece.start_byte + piece.size].decode() == piece.text
    if chosen.bytes_total <= max_bytes:
        assert chosen.texts == [text for text in texts if text]


def test_pieces_are_spread_over_all_documents_and_cut_at_paragraphs():
    paragraph = "A line of words.\nAnother line.\n\n"
    chosen = choose_text(_documents(*[paragraph * 200] * 10), max_bytes=12_000, piece_bytes=400)
    assert chosen.documents == 10
    assert chosen.bytes > 10_000
    assert all(piece.text.endswith("\n\n") and piece.text.startswith("A line") for piece in chosen.pieces)


def test_a_great_heldout_split_is_chosen_from_in_bounded_memory_and_still_evenly():
    documents = (Document(text="x" * 100, source=str(i)) for i in range(5000))
    chosen = choose_text(documents, max_bytes=2_000, piece_bytes=100)
    numbers = [piece.document for piece in chosen.pieces]
    assert chosen.bytes_total == 500_000
    assert len(numbers) >= 15
    assert max(numbers) > 4500
    assert min(numbers) < 500


def test_run_baselines_scores_each_document_and_says_what_it_was_given():
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), 5)) for _ in range(300)]
    texts = [" ".join(rng.choice(words, 2000)) for _ in range(8)]
    heldout = choose_text(_documents(*texts[:3]), max_bytes=10**6)
    found = {b.key: b for b in baselines.run_baselines(_documents(*texts[3:]), heldout)}
    assert list(found) == ["xz", "xz_given_train", "ngram_bytes", "ngram_characters"]
    ngram = found["ngram_bytes"]
    assert len(ngram.document_bits) == ngram.score.n == 3
    assert ngram.score.low < ngram.score.value < ngram.score.high < found["xz"].score.value
    assert ngram.score.value == pytest.approx(sum(ngram.document_bits) / heldout.bytes)
    # the source's own rate is log2(300) bits a word of six bytes; nothing may do better
    assert all(b.score.value > math.log2(300) / 6 for b in found.values())
    assert ngram.train_bytes == ngram.train_bytes_total == found["xz"].train_bytes_total == 5 * 11_999
    assert found["xz"].train_bytes == 0


def test_by_document_sums_the_pieces_of_each():
    chosen = choose_text(_documents("aaaa\n" * 100, "b" * 50), max_bytes=300, piece_bytes=50)
    bits, sizes = by_document(chosen, [1.0] * len(chosen.pieces))
    assert sum(bits) == len(chosen.pieces)
    assert sum(sizes) == chosen.bytes
    assert len(bits) == chosen.documents
