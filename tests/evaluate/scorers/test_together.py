"""Scorers judge each answer by itself: alone, among others, in any order."""

from hypothesis import given
from hypothesis import strategies as st

from dunwu.core.rewards import SPECS as REWARD_SPECS
from dunwu.core.rewards import reward_specs
from dunwu.evaluate.scorers.base import WeightedSum
from dunwu.evaluate.scorers.registry import SCORERS, Means, build_scorer
from tests.evaluate.scorers.helpers import case

SPECS = reward_specs(
    [
        "exact",
        "math",
        "world",
        "schema",
        {"kind": "length", "most": 5, "slack": 3, "unit": "characters"},
        {"kind": "format", "pattern": r"\d", "tags": ["a"], "ends": True},
    ]
)
REWARD = WeightedSum([(1.5, build_scorer(spec, spec.kind_name, Means())) for spec in SPECS])
GRADE = {"rule": "number", "expected": ["4"], "rivals": []}
texts = st.sampled_from(["4", "So 4.", "5", "<a>4</a>", "The answer is 4", "", '{"x": 4}', "[1]"]) | st.text(max_size=8)
cases = st.lists(
    st.builds(
        lambda text, answer, finish: case(text, finish=finish, answer=answer, grade=GRADE, schema={"type": "integer"}),
        texts,
        st.sampled_from(["4", "5", 4.0]),
        st.sampled_from(["stop", "length"]),
    ),
    min_size=1,
    max_size=8,
)


@given(cases, st.randoms())
def test_the_scores_of_permuted_cases_are_permuted_and_one_alone_scores_as_among_others(given_cases, rng):
    scored = REWARD(given_cases)
    order = rng.sample(range(len(given_cases)), len(given_cases))
    shuffled = REWARD([given_cases[at] for at in order])
    for name, values in scored.parts.items():
        assert shuffled.parts[name] == [values[at] for at in order]
    assert shuffled.totals == [scored.totals[at] for at in order]
    assert REWARD(given_cases[:1]).totals == scored.totals[:1]


def test_every_specification_but_the_reward_model_s_has_its_scorer():
    kinds = {spec.model_fields["kind"].default for spec in SCORERS}
    assert kinds == set(REWARD_SPECS) - {"model"}
