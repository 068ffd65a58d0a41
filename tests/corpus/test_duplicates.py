"""Fingerprints: lexemes, MinHash, clusters; each against a slow and plain way of doing the same."""

import random
import re
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from document_files import chinese, english
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.corpus.dedup import (
    PERMUTATIONS,
    Clusters,
    exact_repeats,
    near_repeats,
    signatures,
    similar_pairs,
    text_hash,
)
from dunwu.corpus.measure import HAN, LATIN, SPACE, count_kinds, lexemes, shingles

_PLAIN = re.compile(r"[0-9A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f]+|[\u4e00-\u9fff\u3041-\u309f]")


def whole_signature(text: str) -> np.ndarray:
    hashes = lexemes(text).hashes
    return signatures(hashes, np.array([0, len(hashes)]))[0]


def jaccard(left: str, right: str) -> float:
    sets = [set(shingles(lexemes(text).hashes, 5).tolist()) for text in (left, right)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def edited(text: str, changes: int, seed: int) -> str:
    """The text with some words replaced."""
    rng = random.Random(seed)
    words = text.split(" ")
    for place in rng.sample(range(len(words)), changes):
        words[place] = f"changed{rng.randint(0, 10**6)}"
    return " ".join(words)


@given(st.text(alphabet="abcXYZé09 .,-\n天地人あ", max_size=400))
def test_lexemes_are_words_and_single_characters(text: str) -> None:
    found = lexemes(text)
    plain = [match.group().lower() for match in _PLAIN.finditer(text)]
    assert [text[a:b].lower() for a, b in zip(found.starts, found.ends, strict=True)] == plain
    numbers = {word: index for index, word in enumerate(dict.fromkeys(plain))}
    same = {int(value): index for index, value in enumerate(dict.fromkeys(found.hashes.tolist()))}
    assert [numbers[word] for word in plain] == [same[int(value)] for value in found.hashes]


def test_lexemes_across_blocks_equal_those_inside_one() -> None:
    text = english(1, 3000) + chinese(1, 3000)
    found = lexemes(text)
    words = {}
    for a, b, value in zip(found.starts.tolist(), found.ends.tolist(), found.hashes.tolist(), strict=True):
        assert words.setdefault(text[a:b].lower(), value) == value
    assert len(set(words.values())) == len(words)
    assert "".join(text[a:b] for a, b in zip(found.starts, found.ends, strict=True)) == re.sub(r"\W", "", text)


def test_letters_that_grow_in_lower_case_do_not_shift_positions() -> None:
    text = "İstanbul ẞ und İzmir am Ende"
    found = lexemes(text)
    assert text[found.starts[-1] : found.ends[-1]] == "Ende"


def test_kinds_are_counted() -> None:
    kinds = count_kinds("Hi 天地\u3000\n")
    assert (kinds[LATIN], kinds[HAN], kinds[SPACE]) == (2, 2, 3)


def test_signatures_are_the_same_in_another_process() -> None:
    code = (
        "import numpy as np; from dunwu.corpus.measure import lexemes; from dunwu.corpus.dedup import signatures\n"
        "h = lexemes('the same words in every process, 每个进程都一样').hashes; print(signatures(h, np.array([0, len(h)])).sum())"
    )
    made = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(made) == 1


@pytest.mark.parametrize("changes", [0, 3, 10, 40, 150])
def test_estimate_is_near_the_true_similarity(changes: int) -> None:
    text = english(5, 200)
    other = edited(text, changes, 1)
    estimate = float((whole_signature(text) == whole_signature(other)).mean())
    assert estimate == pytest.approx(jaccard(text, other), abs=4 * 0.5 / np.sqrt(PERMUTATIONS))


def test_whole_is_the_minimum_of_its_sections() -> None:
    text = english(6, 100) + chinese(6, 100)
    hashes = lexemes(text).hashes
    parts = signatures(hashes, np.array([0, 100, 101, 400, len(hashes)]))
    assert (parts.min(axis=0) == whole_signature(text)).all()


@pytest.mark.parametrize("words", [0, 1, 3, 5, 6])
def test_shortest_texts_have_signatures(words: int) -> None:
    assert whole_signature(" ".join("abcdef"[:words])).shape == (PERMUTATIONS,)


def test_near_copies_are_found_and_strangers_are_not() -> None:
    texts = [english(seed, 60) for seed in range(40)]
    texts += [edited(texts[seed], 8, seed) for seed in range(20)]
    sketches = np.stack([whole_signature(text) for text in texts])
    found = {tuple(pair) for pairs, _ in similar_pairs(sketches, np.ones(60, bool), 0.7) for pair in pairs.tolist()}
    true = {(a, b) for a, b in combinations(range(60), 2) if jaccard(texts[a], texts[b]) >= 0.7}
    assert true
    assert {(seed, 40 + seed) for seed in range(20)} >= true
    assert len(found ^ true) <= 3  # those at the threshold


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 60))
def test_each_pair_comes_once_and_only_above_the_threshold(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**32, (3, PERMUTATIONS), dtype=np.uint32)
    sketches = base[rng.integers(0, 3, count)].copy()
    changed = rng.random(sketches.shape) < 0.1
    sketches[changed] = rng.integers(0, 2**32, int(changed.sum()), dtype=np.uint32)
    eligible = rng.random(count) < 0.8
    found = [tuple(p) for pairs, _ in similar_pairs(sketches, eligible, 0.75) for p in pairs.tolist()]
    assert len(found) == len(set(found))
    for a, b in found:
        assert a < b
        assert eligible[a]
        assert eligible[b]
        assert (sketches[a] == sketches[b]).mean() >= 0.75


def test_a_thousand_copies_are_all_joined() -> None:
    sketches = np.repeat(whole_signature(english(1))[None], 1000, axis=0)
    pairs = np.concatenate([part for part, _ in similar_pairs(sketches, np.ones(1000, bool), 0.8)])
    assert len(pairs) < 20_000
    dropped = near_repeats(pairs, 1000)
    assert not dropped[0]
    assert dropped[1:].all()


def test_likeness_is_not_passed_on_along_a_chain() -> None:
    assert near_repeats(np.array([[1, 2], [0, 1]]), 3).tolist() == [False, True, False]


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40))
def test_clusters_are_connected_components(joins: list[tuple[int, int]]) -> None:
    clusters = Clusters.singles(20)
    plain = [{number} for number in range(20)]
    for left, right in joins:
        clusters.join(left, right)
        merged = plain[left] | plain[right]
        for member in merged:
            plain[member] = merged
    assert clusters.names().tolist() == [min(plain[number]) for number in range(20)]


def test_exact_repeats_keep_the_first() -> None:
    hashes = np.array([[1, 2], [3, 4], [1, 2], [1, 3], [1, 2]], np.uint64)
    assert exact_repeats(hashes).tolist() == [False, False, True, False, True]


def test_text_hash_sees_words_not_blanks() -> None:
    assert text_hash("The  cat\nsat.") == text_hash("the cat sat. ")
    assert text_hash("a + b") != text_hash("a - b")
