"""What a text comes to, and votes on it, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwu.prompt.answers import Vote, agree, concluded, vote


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("17. 1/4: 16, 2/4: 15. So 13 coins are left.", "13"),
        ("The pen is 23 cm long. 23 is less than 25. Yes, the pen fits.", "yes"),
        ("Not yet. No one knows.", "No one knows."),
        ("It is too long. No, the pen does not fit.", "no"),
        ("No.", "no"),
        ("Nothing fits.", "Nothing fits."),
        ("先看大小。不能，放不进去。", "不能"),
        ("能源很贵。", "能源很贵。"),
        ("The answer is: True.", "true"),
        ("We have 3 + 4 = 7. The answer is 7.", "7"),
        ("7 plus 5 is 12.\n#### 12", "12"),
        (r"So it is \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("先算3加4。答案是7。", "7"),
        ("还剩 13 个苹果。", "13"),
        ("(B)", "B"),
        ("b", "B"),
        ("Let us see.\n\nC.", "C"),
        ("3.5 grams of 7.", "3.5 grams of 7."),
        ("The price rose to 1,250 coins.", "1,250"),
        ("", None),
        (" \n. !", None),
    ],
)
def test_what_a_text_concludes(text, said):
    assert concluded(text) == said


def test_answers_agree_as_values_and_as_text():
    assert agree("So 13 coins are left.", "I count.\nThe answer is 13.0")
    assert agree("Yes, it fits.", "it is small. yes, it fits")
    assert not agree("So 13 coins are left.", "So 14 coins are left.")
    assert not agree("", "")


def test_the_most_votes_win_and_of_equals_the_first():
    assert vote(["It is 4.", "It is 5.", "So 5."]) == Vote(place=1, votes=2, of=3, tied=False)
    assert vote(["It is 4.", "It is 5.", "", "It is 5.0", "4"]) == Vote(place=0, votes=2, of=4, tied=True)
    assert vote(["", " "]) is None


@given(st.lists(st.sampled_from(["1", "2", "3", ""]), max_size=9))
def test_no_answer_has_more_votes_than_the_winner(answers):
    found = vote(answers)
    counts = {answer: answers.count(answer) for answer in answers if answer}
    assert (found is None) == (not counts)
    if found is not None:
        assert found.votes == max(counts.values()) == counts[answers[found.place]]
        assert answers.index(answers[found.place]) == found.place
        assert found.tied == (list(counts.values()).count(found.votes) > 1)
