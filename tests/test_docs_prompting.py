"""docs/prompting.md: its commands are understood, its tables hold what there is, with the defaults that there are."""

import re
import shlex
from pathlib import Path

import pytest

from dunwu.chat.local import LocalChat
from dunwu.chat.scripted import ScriptedChat
from dunwu.cli import app
from dunwu.prompt.demonstrations.order import ORDERS
from dunwu.prompt.demonstrations.registry import CHOICES, Shots
from dunwu.prompt.strategies.chain_of_thought import ChainOfThought
from dunwu.prompt.strategies.least_to_most import LeastToMost
from dunwu.prompt.strategies.registry import STRATEGIES, require_strategy
from dunwu.prompt.strategies.self_consistency import SelfConsistency
from dunwu.prompt.strategies.self_refine import SelfRefine
from dunwu.prompt.strategies.think_first import ThinkFirst
from dunwu.prompt.strategies.tree import TreeOfThoughts

PAGE = (Path(__file__).parent.parent / "docs" / "prompting.md").read_text("utf-8")
SPECS = {
    one.title: one for one in (ChainOfThought, SelfConsistency, LeastToMost, SelfRefine, TreeOfThoughts, ThinkFirst)
}


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.M | re.S)


def rows():
    """Name and options of each strategy of the table."""
    table = PAGE.partition("## Strategies\n")[2].partition("\n\n`+`")[0]
    return {row.split(" | ")[0].strip("| `"): row.split(" | ")[-1] for row in table.splitlines()[3:]}


@pytest.mark.parametrize("line", blocks("sh")[0].splitlines())
def test_commands_are_understood(line):
    words = shlex.split(line.partition(" #")[0])
    command, bound, _ = app.parse_args(words[1:], exit_on_error=False, print_error=False)
    assert callable(command)
    for name in ("strategy", "solver"):
        for text in [bound.arguments.get(name, "direct")]:
            given = (text,) if isinstance(text, str) else text
            for one in given:
                require_strategy(one.partition("=")[2] if one.startswith("careful=") else one)


def test_every_strategy_is_listed_with_its_options():
    found = rows()
    assert set(found) == set(STRATEGIES)
    for title, spec in SPECS.items():
        for option, default in re.findall(r"`(\w+)` \(([^;:)]*)", found[title]):
            held = spec.model_fields[option].get_default()
            assert str(held).lower() == default, (title, option)
    for name in ("k", "seed", "by", "order", "budget"):
        assert f"`{name}`" in found["few-shot"]
        assert name in Shots.model_fields


def test_every_choice_and_order_is_named():
    text = PAGE.partition("## Demonstrations\n")[2].partition("\n## ")[0]
    for name in (*ORDERS, *CHOICES):
        assert name in ("none", "influence") or f"`{name}`" in text or f"={name}`" in text, name
    assert "influence" in text


def test_the_python_runs_as_it_stands(monkeypatch, capsys):
    monkeypatch.setattr(LocalChat, "load", lambda folder: ScriptedChat(["So 4.", "So 5.", "So 4."] * 3))
    (code,) = blocks("python")
    exec(compile(code, "example", "exec"), {})
    assert capsys.readouterr().out == "So 4.\n"
