"""The best of several answers, by hand and from a real engine: the same seed gives the same, and asking more never hurts."""

import json

import pytest

from dunwu.align.baselines.best_of_n import Drawing, curve, draw, passes
from dunwu.align.rewards import make_reward, part_names
from dunwu.chat.scripted import ScriptedChat
from dunwu.cli import run
from dunwu.core.errors import RecipeError
from dunwu.core.progress import SilentProgress
from dunwu.core.records import Message
from dunwu.core.rewards import reward_specs
from dunwu.corpus.prompts import Prompt

ANSWERS = ["4", "It is 4", "5", "The answer is 4.", "6", "7", "8", "9"]


def prompts(*answers):
    return [Prompt((Message(role="user", content=f"q{n}"),), {"answer": a}, str(n)) for n, a in enumerate(answers)]


def drawn(rewards=("math",), n=4, golds=(4, 9)):
    reward = make_reward(reward_specs(rewards))
    return list(draw(ScriptedChat(ANSWERS), prompts(*golds), reward, Drawing(n=n), SilentProgress()))


def test_answers_stay_with_their_prompts():
    first, second = drawn(("math", "0.5*exact"))
    assert first.totals == (1.5, 1, 0, 1)
    assert second.totals == (0, 0, 0, 1.5)
    assert (first.best, second.best) == (0, 3)
    assert first.ranked() == [0, 1, 3, 2]
    assert first.parts == {"math": (1, 1, 0, 1), "exact": (1, 0, 0, 0)}


def test_the_curve_and_passes_by_hand():
    found = drawn()
    assert [estimate.value for estimate in curve(found).values()] == pytest.approx([0.5, 0.75, 1.0])
    assert [estimate.value for estimate in passes(found, "math").values()] == pytest.approx([0.5, 0.75, 1.0])
    assert list(curve(found)) == [1, 2, 4]
    assert passes(drawn(("length:3",)), "length") is None


def test_parts_of_one_kind_have_names_of_their_own():
    specs = reward_specs(["exact", "exact:gold", {"kind": "exact", "name": "mine"}])
    assert part_names(specs) == ["exact", "exact_2", "mine"]


def test_what_a_reward_needs_and_lacks_is_said(tmp_path):
    with pytest.raises(RecipeError, match="names no path, and this build has no reward stage"):
        make_reward(reward_specs(["model"]))
    with pytest.raises(RecipeError, match="does not exist"):
        make_reward(reward_specs([f"model:{tmp_path}/none"]))
    with pytest.raises(RecipeError, match="names no judge"):
        make_reward(reward_specs(["judge"]))


def rows(path, *values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values), "utf-8")
    return str(path)


def test_score_a_file(tmp_path, capsys):
    file = rows(
        tmp_path / "said.jsonl",
        {"prompt": "2+2?", "completion": ["The answer is 4.", "5"], "answer": "4"},
        {"prompt": "2+3?", "completion": "so 5", "answer": "5"},
        {"prompt": "2+4?", "answer": "6"},
    )
    out = tmp_path / "scores.jsonl"
    assert run(["score", file, "--reward", "math", "--reward", "0.1*length:7", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0].split() == ["reward", "0.725", "[-2.769,", "4.219]", "2", "prompts"]
    assert said.out.splitlines()[1].split()[:2] == ["reward.math", "0.75"]
    assert "1 rows left out (1 has no answer to judge)" in said.err
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["completion"], row["reward"], row["reward.math"], row["reward.length"]) for row in found] == [
        ("The answer is 4.", 0.9, 1, -1),
        ("5", 0, 0, 0),
        ("so 5", 1, 1, 0),
    ]
    assert run(["score", file, "--reward", "math", "--json"]) == 0
    (_, math) = json.loads(capsys.readouterr().out)
    assert (math["name"], math["value"], math["n"], math["unit"]) == ("reward.math", 0.75, 2, "share")


@pytest.mark.parametrize(
    ("row", "options", "says"),
    [
        ({"question": "2?", "answer": "4"}, ["--reward", "math"], "has no answer to judge"),
        ({"question": "2?", "response": "4"}, ["--reward", "math"], "reads the column 'answer'"),
        ({"question": "2?", "response": "4"}, ["--reward", "mth"], "there is no 'mth'"),
        (
            {"question": "2?", "said": "4"},
            ["--reward", "math", "--completion", "sad"],
            "has no answer to judge: none of sad",
        ),
        ({"question": "2?", "response": "4", "answer": "4"}, ["--reward", "0.5"], "there is no '0.5'"),
    ],
)
def test_what_cannot_be_scored_is_one_line_and_exit_code_2(tmp_path, capsys, row, options, says):
    assert run(["score", rows(tmp_path / "f.jsonl", row), *options]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("dunwu: ")
    assert says in said.err
    assert "Traceback" not in said.err
