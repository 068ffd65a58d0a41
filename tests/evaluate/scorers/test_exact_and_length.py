"""What counts as the same answer, and what an answer of the wrong length costs: by hand."""

import pytest

from dunwu.core.errors import DataError
from dunwu.core.rewards import ExactReward, LengthReward, WorldReward
from dunwu.evaluate.scorers.exact import ExactScorer
from dunwu.evaluate.scorers.length import LengthScorer
from dunwu.evaluate.scorers.world import WorldScorer
from tests.evaluate.scorers.helpers import case


@pytest.mark.parametrize(
    ("said", "answer", "options", "score"),
    [
        ("Paris.", "paris", {}, 1),
        (" The  Hague!\n", "the hague", {}, 1),
        ("Paris, France", "Paris", {}, 0),
        ("3.5", "35", {}, 0),
        ("-2", "2", {}, 0),
        ("１２", "12", {}, 1),
        ("北京。", "北京", {}, 1),
        ("Paris", "paris", {"ignore_case": False}, 0),
        ("Paris.", "Paris", {"ignore_punctuation": False}, 0),
        ("I think it is Paris, really.", "Paris", {"where": "contains"}, 1),
        ("I live in Parisville.", "Paris", {"where": "contains"}, 0),
        ("我住在北京市。", "北京", {"where": "contains"}, 1),
        ("Let me see.\nParis.\n\n", "Paris", {"where": "last_line"}, 1),
        ("Paris\nbecause", "Paris", {"where": "first_line"}, 1),
        ("", "Paris", {"where": "last_line"}, 0),
        ("B", ["A", "B"], {}, 1),
        ("12", 12, {}, 1),
        ("it's", "its", {}, 0),
    ],
)
def test_exact(said, answer, options, score):
    assert ExactScorer(ExactReward(**options))([case(said, answer=answer)]) == [score]


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match=r"reads the column 'answer', and the row of 'Q\?' has no.*its columns: gold"):
        ExactScorer(ExactReward())([case("x", gold=1)])


def test_length_by_hand():
    spec = LengthReward(most=10, least=4, slack=4)
    lengths = (0, 2, 4, 10, 11, 14, 30)
    scores = LengthScorer(spec)([case("x" * n, ids=range(n)) for n in lengths])
    assert scores == [-1, -0.5, 0, 0, -0.25, -1, -1]
    assert LengthScorer(LengthReward(most=3))([case("", ids=range(n)) for n in (3, 4)]) == [0, -1]
    assert LengthScorer(LengthReward(most=3, unit="characters"))([case("four", ids=(1,))]) == [-1]


def test_dapo_equation_13():
    """R = 0 to L_max - L_cache; (L_max - L_cache - y) / L_cache to L_max; -1 beyond."""
    longest, cache = 20, 8
    scorer = LengthScorer(LengthReward(most=longest - cache, slack=cache))
    for y in range(30):
        wanted = 0 if y <= longest - cache else (longest - cache - y) / cache if y <= longest else -1
        assert scorer([case("", ids=range(y))]) == [wanted]


def test_the_world_grades_as_its_exam_does():
    grade = {"rule": "number", "expected": ["4"], "rivals": []}
    cases = [case("8 less 4 is 4. So 4 are left.", grade=grade), case("So 5 are left.", grade=grade)]
    assert WorldScorer(WorldReward())(cases) == [1, 0]
    with pytest.raises(DataError, match="is no grade"):
        WorldScorer(WorldReward())([case("x", grade={"rule": "guess", "expected": ["4"]})])


def test_length_equals_trls_soft_overlong_punishment():
    rewards = pytest.importorskip("trl.rewards", reason="trl is not installed")
    punishment = rewards.get_soft_overlong_punishment(max_completion_len=20, soft_punish_cache=8)
    ids = [list(range(n)) for n in range(30)]
    ours = LengthScorer(LengthReward(most=12, slack=8))([case("", ids=one) for one in ids])
    assert ours == pytest.approx(punishment(completions=["x"] * 30, completion_ids=ids))
