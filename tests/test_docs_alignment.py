"""The examples of docs/alignment.md, run; its tables, held against the methods, rewards, rules and figures that there are."""

import json
import re
from pathlib import Path

import pytest

from dunwu.align.advantages.registry import ADVANTAGES
from dunwu.align.card.record import FIGURES
from dunwu.align.doctor.registry import RULES
from dunwu.align.registry import OBJECTIVES
from dunwu.build.report_align import NAMES_ZH
from dunwu.cli import run
from dunwu.core.load import check_recipe
from dunwu.core.nearest import known_keys
from dunwu.core.policy import policy_spec
from dunwu.core.recipe import Recipe
from dunwu.core.rewards import SPECS
from dunwu.core.yaml import parse_yaml

PAGE = (Path(__file__).parent.parent / "docs" / "alignment.md").read_text("utf-8")


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.M | re.S)


def part(heading):
    return PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def first_cells(text):
    rows = re.findall(r"^\| (.*?) \|", text, re.M)
    return [row for row in rows if not row.startswith("---")][1:]


def test_the_recipe_is_understood():
    (text,) = blocks("yaml")
    recipe = check_recipe(parse_yaml(text), [], origin="the page")
    assert (recipe.rl.algorithm.name, recipe.rl.steps) == ("grpo", 60)
    assert [reward.kind_name for reward in recipe.rl.rewards] == ["world", "length"]
    assert recipe.rl.rewards[1].weight == 0.1


def test_the_python_runs_as_it_stands(capsys):
    (code,) = blocks("python")
    exec(compile(code, "example", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("lost groups without variance since step 1")


def test_the_doctor_reads_a_file_of_metrics(tmp_path, capsys):
    rows = [{"step": step, "reward": 0.0, "groups_without_variance": 1.0} for step in range(1, 41)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run(["doctor", str(tmp_path / "metrics.jsonl")]) == 0
    assert "too hard" in capsys.readouterr().out


def test_every_method_and_every_reward_is_listed():
    methods = re.search(r"^Methods of preferences: (.*?)\n\n", PAGE, re.M | re.S)[1]
    assert set(re.findall(r"`([\w+]+)`", methods)) == set(OBJECTIVES) | set(ADVANTAGES)
    assert {cell.strip("`") for cell in first_cells(part("Rewards"))} == set(SPECS)


def test_methods_are_written_as_they_are_understood():
    written = re.findall(r"`(\{method: .*?\})`", PAGE)
    assert len(written) >= 9
    specs = [policy_spec(parse_yaml(text)) for text in written]
    assert {spec.name for spec in specs} == set(ADVANTAGES) - {"distill"}


def test_every_finding_is_listed_with_keys_that_there_are():
    told = part("What the doctor says")
    names = first_cells(told)
    assert set(names) == set(NAMES_ZH)
    assert len(names) == len(RULES) + 1
    known = known_keys(Recipe)
    for key in re.findall(r"`((?:rl|evaluate)\.[\w.]+)", PAGE):
        top = ".".join(key.split(".")[:2])
        assert any(one == top or one.startswith(f"{top}.") for one in known), key


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_of_the_card_is_explained(figure):
    words = {
        "reward.": "its parts",
        "exam.": "exam",
        "bits_per_byte": "bits per byte",
        "refusal.sound": "sound questions refused",
        "refusal.false_premise": "false premises accepted",
        "refusal.by_words": "sound like a refusal",
        "win_rate": "win rate",
        "ended": "ended",
    }
    told = part("Reading the card")
    assert words.get(figure, figure.partition(".")[0]) in told
