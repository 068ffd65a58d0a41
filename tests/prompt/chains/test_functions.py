"""Long texts in parts: nothing is lost, nothing too long, and cut where a reader would cut."""

from hypothesis import given
from hypothesis import strategies as st

from dunwu.prompt.chains.functions import FUNCTIONS, first_paragraphs, packed, paragraphs, split_text
from dunwu.prompt.chains.running import guess_tokens

TEXTS = st.text(alphabet="ab .!?\n。中é", max_size=200)


@given(TEXTS, st.integers(1, 30))
def test_parts_are_the_text_and_none_is_too_long(text, size):
    parts = split_text(text, size, len)
    assert "".join(parts) == text
    assert all(0 < len(part) <= size for part in parts)


@given(TEXTS, st.integers(4, 30), st.integers(1, 3))
def test_with_overlap_each_part_begins_with_the_end_of_the_one_before(text, size, overlap):
    plain, parts = split_text(text, size - overlap, len), split_text(text, size, len, overlap=overlap)
    assert len(parts) == len(plain)
    for at, (part, own) in enumerate(zip(parts, plain, strict=True)):
        assert part.endswith(own)
        before = part.removesuffix(own)
        assert len(before) <= overlap
        assert at == 0 or plain[at - 1].endswith(before)


def test_it_cuts_between_paragraphs_before_sentences_before_words():
    text = "One two. Three four.\n\nFive six seven.\n\nEight."
    assert split_text(text, 40, len) == ["One two. Three four.\n\nFive six seven.\n\n", "Eight."]
    assert split_text(text, 16, len) == ["One two. ", "Three four.\n\n", "Five six ", "seven.\n\nEight."]
    assert split_text("他来了。她走了。", 4, len) == ["他来了。", "她走了。"]
    assert split_text("abcdefgh", 3, len) == ["ab", "cd", "ef", "gh"]


@given(st.lists(st.text("ab", min_size=1, max_size=9), min_size=2, max_size=20), st.integers(2, 5), st.integers(1, 20))
def test_groups_hold_all_in_order_and_always_grow_fewer(texts, at_a_time, most):
    groups = packed(texts, most, at_a_time, len)
    assert [text for group in groups for text in group] == texts
    assert len(groups) < len(texts)
    assert all(len(group) <= at_a_time for group in groups)
    assert all(len("\n\n".join(group)) <= most for group in groups if len(group) > 2)


def test_each_text_is_measured_a_few_times_at_most():
    text = "".join(f"This is sentence {n}. " for n in range(2_000))
    measured = 0

    def count(one):
        nonlocal measured
        measured += len(one)
        return len(one)

    parts = split_text(text, 10_000, count)
    assert "".join(parts) == text
    assert all(9_900 < len(part) <= 10_000 for part in parts[:-1])
    assert measured < 6 * len(text)


def test_where_joining_costs_more_than_the_pieces_it_is_cut_again():
    def count(one):
        return len(one) + one.count(" ")

    parts = split_text("aa bb cc dd", 5, lambda one: count(one) + (3 if len(one) > 4 else 0))
    assert "".join(parts) == "aa bb cc dd"
    assert all(len(part) <= 4 for part in parts)


def test_paragraphs():
    text = "\n\nA\nb\n \nC\n\n\n\nD\n"
    assert paragraphs(text) == ["A\nb", "C", "D"]
    assert first_paragraphs(text, 2) == "A\nb\n\nC"
    assert first_paragraphs("one", 3) == "one"


def test_functions_of_files():
    assert FUNCTIONS["numbered"](["a", "b"]) == "1. a\n2. b"
    assert FUNCTIONS["first_line"]("\n x \ny") == "x"
    assert FUNCTIONS["join"](["a", 1], "-") == "a-1"
    assert FUNCTIONS["words"]("a b  c") == 3


def test_tokens_are_guessed_for_both_scripts():
    assert guess_tokens("") == 0
    assert guess_tokens("word word") == 3
    assert guess_tokens("你好") == 2
