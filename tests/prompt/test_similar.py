"""ROUGE-L against the textbook's table, the index against comparing all with all, MinHash against what it estimates."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.prompt.making.similar import Questions, Sketches, common_subsequence, rouge_l, words

FEW_WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f"]), max_size=12)


def by_table(left: list[str], right: list[str]) -> int:
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, one in enumerate(left, 1):
        for j, other in enumerate(right, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if one == other else max(table[i - 1][j], table[i][j - 1])
    return table[-1][-1]


@given(FEW_WORDS, FEW_WORDS)
@settings(max_examples=300, deadline=None)
def test_the_bits_count_what_the_table_counts(left, right):
    assert common_subsequence(left, right) == by_table(left, right)


def test_rouge_l_by_hand():
    # Lin 2004, 3.2: of "police killed the gunman" the longest common subsequence with the first is 3 of 4, with the second 2 of 4.
    gold = words("Police killed the gunman.")
    assert rouge_l(gold, words("police kill the gunman")) == 0.75
    assert rouge_l(gold, words("the gunman kill police")) == 0.5
    assert rouge_l(words("台灯多少钱？"), words("台灯多重？")) == 2 * 3 / 9
    assert rouge_l([], gold) == 0.0


def test_words_are_characters_where_there_are_no_spaces():
    assert words("用Python写3个函数, please!") == ["用", "python", "写", "3", "个", "函", "数", "please"]


@given(st.lists(FEW_WORDS, min_size=1, max_size=12), FEW_WORDS, st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0]))
@settings(max_examples=400, deadline=None)
def test_the_index_overlooks_nothing(kept, new, threshold):
    index = Questions(threshold)
    for text in kept:
        index.add(" ".join(text))
    wanted = any(rouge_l(new, text) >= threshold for text in kept)
    assert index.like(" ".join(new)) == wanted


def test_those_of_one_family_may_be_alike():
    index, sketches = Questions(0.7), Sketches(0.8)
    text = "Write a poem about the sea in autumn, with four lines and one rhyme."
    for pool in (index, sketches):
        pool.add(text, "a")
        assert pool.like(text, "b")
        assert pool.like(text)
        assert not pool.like(text, "a")


def test_minhash_finds_rows_that_differ_in_a_word_and_no_others():
    chance = random.Random(0)
    vocabulary = [f"word{number}" for number in range(400)]
    texts = [chance.choices(vocabulary, k=80) for _ in range(60)]
    sketches = Sketches(0.8)
    for text in texts:
        sketches.add(" ".join(text))
    for text in texts[:20]:
        assert sketches.like(" ".join(["other", *text[1:]]))  # 75 of 77 runs of five remain: 0.97
        mixed = text[:40] + chance.choices(vocabulary, k=40)  # 36 of 116: 0.31
        assert not sketches.like(" ".join(mixed))
