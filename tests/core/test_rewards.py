"""A reward in few words and in full is one specification, and what is wrong with it is said by its key."""

import pytest

from dunwu.core.errors import RecipeError
from dunwu.core.load import check_recipe
from dunwu.core.rewards import (
    ExactReward,
    FunctionReward,
    LengthReward,
    MathReward,
    ModelReward,
    reward_specs,
    short_form,
)


@pytest.mark.parametrize(
    ("short", "spec"),
    [
        ("math", MathReward()),
        ("math:gold", MathReward(answer="gold")),
        ("0.1*length:200", LengthReward(weight=0.1, most=200)),
        ("-1 * exact", ExactReward(weight=-1)),
        ("function:my dir/f.py:score", FunctionReward(path="my dir/f.py:score")),
        ("model:/x:y", ModelReward(path="/x:y")),
        ('{"kind": "length", "most": 9, "slack": 3}', LengthReward(most=9, slack=3)),
        ({"kind": "exact", "where": "last_line"}, ExactReward(where="last_line")),
    ],
)
def test_short_and_long(short, spec):
    assert reward_specs([short]) == (spec,)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("maths", r"there is no 'maths'; known are .*math"),
        ("math:", "nothing follows the colon; write math or math:ANSWER"),
        ("length", "most is missing"),
        ("function:f.py", r"must be text that matches"),
        ({"kind": "math", "wieght": 2}, r"did you mean rewards.0.weight"),
        ({"kind": "exact", "clip": [1, 0]}, "is no range"),
        ({"kind": "exact", "weight": float("nan")}, "finite number"),
        ('{"kind": ', "is not valid JSON"),
        ({"kind": "nope"}, "one of"),
        ({"kind": "exact", "name": "a b"}, "matches"),
    ],
)
def test_what_is_wrong_is_said(bad, says):
    with pytest.raises(RecipeError, match=says):
        reward_specs([bad])


def test_a_number_in_a_short_form_is_one_in_a_recipe_too():
    recipe = check_recipe(
        {
            "corpus": {"sources": [{"kind": "world"}]},
            "sft": {"sources": [{"kind": "world"}]},
            "rl": {"sources": [{"kind": "world"}], "rewards": ["world", "0.1*length:60"]},
        },
        [],
        origin="here",
    )
    assert (recipe.rl.rewards[1].most, recipe.rl.rewards[1].weight) == (60, 0.1)
    with pytest.raises(RecipeError, match=r"reward 'length:many': 'many' is not a whole number; write length:200"):
        short_form("length:many")
