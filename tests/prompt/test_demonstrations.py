"""Which demonstrations are shown, and in which order; by hand, and beside libraries that do the same."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwu.core.errors import DataError, RecipeError
from dunwu.core.problems import Problem
from dunwu.prompt.demonstrations.balanced import Balanced
from dunwu.prompt.demonstrations.budget import within
from dunwu.prompt.demonstrations.diverse import Diverse
from dunwu.prompt.demonstrations.influence import Influential, influences
from dunwu.prompt.demonstrations.likeness import Bm25, TfIdf
from dunwu.prompt.demonstrations.registry import CHOICES, Means, demonstrations
from dunwu.prompt.demonstrations.similar import Similar

POOL = [
    Problem(id="1", input="does the pen fit into the box", target="yes"),
    Problem(id="2", input="does the drum fit into the jar", target="no"),
    Problem(id="3", input="who owns the lamp", target="Anna"),
    Problem(id="4", input="does the pen fit into the jar", target="yes"),
    Problem(id="5", input="does the lamp fit into the box", target="no"),
]
ASKED = Problem(id="q", input="does the pen fit into the chest")


def ids(shown) -> str:
    return "".join(one.id for one in shown)


def test_none_and_at_random_by_seed_and_problem():
    assert demonstrations("none", POOL)(ASKED) == ()
    assert demonstrations("random:k=0", [])(ASKED) == ()
    chosen = demonstrations("random:k=3,seed=5", POOL)
    assert ids(chosen(ASKED)) == ids(demonstrations("random:k=3,seed=5", POOL)(ASKED))
    assert len(set(ids(chosen(ASKED)))) == 3
    drawn = {ids(demonstrations(f"random:k=2,seed={seed}", POOL)(ASKED)) for seed in range(200)}
    assert len(drawn) == 20  # each ordered pair of five
    assert len({ids(chosen(Problem(id=str(n), input="?"))) for n in range(50)}) > 10


@pytest.mark.parametrize("name", ["random", "balanced", "similar", "diverse"])
def test_a_problem_is_never_its_own_demonstration(name):
    shown = demonstrations(f"{name}:k=9", POOL)
    assert sorted(ids(shown(POOL[0]))) == list("2345")
    assert sorted(ids(shown(Problem(id="other", input=POOL[2].input)))) == list("1245")


def test_balanced_answers_take_turns():
    pool = [Problem(id=str(n), input=str(n), target="yes" if n < 8 else "no") for n in range(10)]
    for seed in range(20):
        chosen = Balanced(pool, seed=seed).choose(ASKED, 5)
        counts = Counter(pool[place].target for place in chosen)
        assert counts["no"] == 2  # all there are
        assert counts["yes"] == 3
        assert {pool[place].target for place in chosen[:2]} == {"yes", "no"}
    choices = [
        Problem(id=str(n), input=str(n), choices=("A", "B"), right=n % 2, target="the same words") for n in range(6)
    ]
    assert {choices[place].right for place in Balanced(choices).choose(ASKED, 2)} == {0, 1}


def test_bm25_by_hand():
    # "pen": in texts 1 and 4 of 5; "chest": in none; texts have 7, 7, 4, 7, 7 words, 6.4 on average
    scores = Bm25([one.input for one in POOL]).to("pen chest")
    idf = math.log(1 + (5 - 2 + 0.5) / (2 + 0.5))
    expected = idf * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 7 / 6.4))
    assert scores == pytest.approx([expected, 0, 0, expected, 0])
    assert Bm25(["笔能放进盒子吗", "谁拥有灯"]).to("笔")[0] > 0


def test_tf_idf_equals_scikit_learns():
    text = pytest.importorskip("sklearn.feature_extraction.text", reason="scikit-learn is not installed")
    texts = [one.input for one in POOL]
    peer = text.TfidfVectorizer(token_pattern=r"[^\W_]+").fit(texts)
    expected = (peer.transform(texts) @ peer.transform(["the pen is in the box"]).T).toarray()[:, 0]
    assert TfIdf(texts).to("the pen is in the box") == pytest.approx(expected)


def test_tf_idf_by_hand():
    found = TfIdf(["a b", "a c"])
    b = math.log(3 / 2) + 1
    assert found.to("b") == pytest.approx([b / math.hypot(1, b), 0])
    assert found.among([0, 1]) == pytest.approx(np.array([[1, 1 / (1 + b * b)], [1 / (1 + b * b), 1]]))
    assert TfIdf(["x"]).to("nothing of it") == pytest.approx([0])


def test_the_most_similar_stand_last():
    assert ids(demonstrations("similar:k=2", POOL)(ASKED)) == "41"
    assert ids(demonstrations("similar:k=2,order=best-first", POOL)(ASKED)) == "14"
    assert ids(demonstrations("similar:k=2,by=tf-idf,order=best-first", POOL)(ASKED)) == "14"
    vectors = {"does the pen fit into the chest": [1, 0], "who owns the lamp": [2, 0.1]}
    means = Means(embed=lambda texts: np.array([vectors.get(text, [0, 1]) for text in texts], dtype=np.float32))
    assert ids(demonstrations("similar:k=1,by=model", POOL, means)(ASKED)) == "3"


class Given:
    """Likeness as it is written down."""

    def __init__(self, to, among):
        self._to, self._among = np.array(to, dtype=float), np.array(among, dtype=float)

    def to(self, text):
        return self._to

    def among(self, places):
        return self._among[np.ix_(places, places)]


def test_maximal_marginal_relevance_by_hand():
    # b is nearly a's twin; c is a little less like the problem and unlike both
    pool = [Problem(id=name, input=name) for name in "abc"]
    likeness = Given([1.0, 0.9, 0.6], [[1, 0.95, 0.1], [0.95, 1, 0.1], [0.1, 0.1, 1]])
    assert Similar(pool, likeness).choose(ASKED, 3) == [0, 1, 2]
    # after a: b 0.5 × 0.9 − 0.5 × 0.95 < 0, c 0.5 × 0.6 − 0.5 × 0.1 = 0.25
    assert Diverse(pool, likeness, relevance=0.5).choose(ASKED, 3) == [0, 2, 1]
    assert Diverse(pool, likeness, relevance=1).choose(ASKED, 3) == [0, 1, 2]
    with pytest.raises(RecipeError, match="relevance=2 is a share"):
        Diverse(pool, likeness, relevance=2)


def test_influence_finds_what_helps():
    pool = [Problem(id=str(n), input=str(n)) for n in range(8)]
    worth = {"2": 0.5, "5": 0.3, "6": -0.4}
    found = influences(pool, lambda shots: sum(worth.get(one.id, 0.0) for one in shots), k=2, draws=60)
    assert {one.draws for one in found} == {15}  # 60 sets of two, evenly over eight
    chosen = Influential(pool, found)
    assert chosen.choose(ASKED, 2) == [2, 5]
    assert chosen.choose(pool[2], 1) == [5]
    assert chosen.choose(ASKED, 8)[-1] == 6
    assert ids(demonstrations("influence:k=1", pool, Means(influences=found))(ASKED)) == "2"
    with pytest.raises(DataError, match="k=8 of a pool of 8"):
        influences(pool, lambda shots: 0.0, k=8, draws=9)
    with pytest.raises(DataError, match="8 influences for a pool of 5"):
        Influential(POOL, found)


def test_influence_by_hand():
    pool = [Problem(id=name, input=name) for name in "ab"]
    found = influences(pool, lambda shots: 1.0 if shots[0].id == "a" else 0.25, k=1, draws=4)
    assert [(one.value, one.draws) for one in found] == [(0.75, 2), (-0.75, 2)]


def test_orders():
    spelled = {"best-first": "14", "best-last": "41", "by-label": "14"}
    for order, shown in spelled.items():
        assert ids(demonstrations(f"similar:k=2,order={order}", POOL)(ASKED)) == shown
    assert [one.target for one in demonstrations("random:k=5,order=by-label", POOL)(ASKED)] == [
        "Anna",
        "no",
        "no",
        "yes",
        "yes",
    ]
    orders = {ids(demonstrations(f"similar:k=3,order=random,seed={n}", POOL)(ASKED)) for n in range(60)}
    assert len(orders) == 6


@given(st.lists(st.integers(1, 30), max_size=8), st.integers(1, 60))
def test_a_budget_leaves_out_whole_demonstrations(sizes, budget):
    pool = [Problem(id=str(n), input="x" * size) for n, size in enumerate(sizes)]
    if sizes and min(sizes) > budget:
        with pytest.raises(DataError, match=f"the shortest of {len(sizes)} demonstrations takes {min(sizes)}"):
            within(pool, budget, lambda one: len(one.input))
        return
    kept, dropped = within(pool, budget, lambda one: len(one.input))
    assert sum(len(one.input) for one in kept) <= budget
    assert sorted([*kept, *dropped], key=lambda one: int(one.id)) == pool
    assert all(
        len(one.input) > budget - sum(len(two.input) for two in kept if int(two.id) < int(one.id)) for one in dropped
    )


def test_a_budget_says_what_it_left_out():
    said = []
    means = Means(count_tokens=lambda one: len(one.input), told=said.append)
    shown = demonstrations("similar:k=3,budget=60,order=best-first", POOL, means)
    assert [ids(shown(ASKED)), ids(shown(ASKED))] == ["14", "14"]
    assert shown.dropped == {"2": 2}
    assert said == ["demonstrations that exceed the budget of 60 tokens are left out whole"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("simular", "did you mean similar?"),
        ("similar:k=x", "k='x': must be a whole number"),
        ("similar:by=bm26", "by='bm26'"),
        ("similar:by=model", "needs a model's vectors"),
        ("influence", "need a development set"),
        ("random:budget=10", "nobody counts tokens here"),
        ("random:order=best", "order='best'"),
    ],
)
def test_what_names_no_choice_is_refused(text, message):
    with pytest.raises(RecipeError) as caught:
        demonstrations(text, POOL)
    assert message in str(caught.value)


def test_an_empty_pool_is_refused():
    for name in CHOICES:
        if name not in ("none", "influence"):
            with pytest.raises(DataError, match="the pool of demonstrations is empty"):
                demonstrations(name, [])
