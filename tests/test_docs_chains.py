"""The examples of docs/chains.md and docs/sandbox.md, run; the tables and lists, held against what there is."""

import re
from pathlib import Path

import pytest

from dunwu.chat.scripted import ScriptedChat
from dunwu.core.yaml import parse_yaml
from dunwu.evaluate.sandbox import walls
from dunwu.prompt.chains import files
from dunwu.prompt.chains.files import chain_from
from dunwu.prompt.chains.functions import FUNCTIONS
from dunwu.prompt.chains.kinds import NAMED
from dunwu.serve.gateway_config import GatewayConfig

DOCS = Path(__file__).parent.parent / "docs"
CHAINS, SANDBOX = ((DOCS / f"{name}.md").read_text("utf-8") for name in ("chains", "sandbox"))


def blocks(page, kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", page, re.M | re.S)


def test_the_python_of_chains_runs_as_it_stands():
    (code,) = blocks(CHAINS, "python")
    said = iter(
        [
            "1. Up\n2. Skyward Ltd",
            "hm",
            '{"short": true, "reason": "two letters"}',
            '{"short": false, "reason": "long"}',
        ]
    )
    there = {"chat": ScriptedChat(lambda messages: next(said))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dunwu.prompt.chains.running.Retry.wait_s", lambda *_: 0.0)
        exec(compile(code, "example", "exec"), there)
    assert there["result"].values["names"] == ["Up", "Skyward Ltd"]
    assert [one.short for one in there["result"].answer] == [False, True]


def test_the_chain_in_yaml_runs():
    chain, gateway = blocks(CHAINS, "yaml")
    made = chain_from(parse_yaml(chain))
    chat = ScriptedChat(lambda messages: messages[0].content.split()[1])
    assert made.run({"product": "kites"}, chat).answer == "is: slogan (colour)"
    assert GatewayConfig.model_validate(parse_yaml(gateway)).routes["company"].chain == "company.yaml"


def test_the_table_has_all_steps_and_their_keys():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", CHAINS, re.M))
    assert set(rows) == set(files._KEYS)
    for kind, keys in files._KEYS.items():
        assert set(keys) <= set(re.findall(r"`(\w+)`", rows[kind])), kind
    assert all(f"`{name}`" in CHAINS for name in (*FUNCTIONS, *NAMED))


@pytest.mark.skipif(not walls().hold, reason="this machine has too few walls")
def test_the_python_of_the_sandbox_runs_as_it_stands(capsys):
    (code,) = blocks(SANDBOX, "python")
    exec(compile(code, "example", "exec"), {})
    assert "limits on time" in capsys.readouterr().out
