"""Chains as YAML: what is read, what is refused and how it is said, and that what is saved is what is loaded."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from dunwu.chat.scripted import ScriptedChat
from dunwu.core.errors import PromptError
from dunwu.core.templates import Template
from dunwu.core.yaml import format_yaml, parse_yaml
from dunwu.prompt.chains import (
    Ask,
    Branch,
    Call,
    Chain,
    Fill,
    Inputs,
    Json,
    Lines,
    Map,
    Reduce,
    Regex,
    Schema,
    Split,
)
from dunwu.prompt.chains.files import chain_data, chain_from, load_chain, save_chain
from dunwu.prompt.chains.kinds import record


def echo(messages):
    return f"<{messages[-1].content}>"


def made(text, **how):
    return chain_from(parse_yaml(text), **how)


def test_everything_at_once():
    text = """
name: all
inputs: {doc: text, n: int, language: text}
steps:
  - call: first_paragraphs
    with: {text: doc, n: {value: 2}}
    gives: start
  - {split: start, by: characters, size: 8, gives: parts}
  - map: {ask: "S {{ part }}", gives: s, options: {max_tokens: 5, stop: ["\\n"]}}
    over: parts
    item: part
    gives: ss
  - reduce:
      - {fill: "{{ texts|join('/') }}", gives: joined}
      - {ask: null, reads: joined, gives: s}
    over: ss
    gives: whole
    at_a_time: 2
  - parallel:
      - {ask: "A {{ whole }}", gives: a, system: "in {{ language }}", retries: 3}
      - - {ask: "B {{ n }}", gives: b}
        - {parse: {regex: "B (?P<n>\\\\d)"}, of: b, gives: found}
  - branch: language
    when:
      de: {fill: "de {{ a }}", gives: out}
    otherwise: [{fill: "en {{ found.n }}", gives: out}]
answer: out
"""
    chain = made(text)
    values = {"doc": "One two\n\nthree\n\nfour", "n": 7, "language": "en"}
    chat = ScriptedChat(echo)
    assert chain.run(values, chat).answer == "en 7"
    assert chain.run(values | {"language": "de"}, ScriptedChat(echo)).answer.startswith("de <A <")
    assert chat.options[0].max_tokens == 5
    assert chat.options[0].stop == ("\n",)
    again = chain_from(parse_yaml(format_yaml(chain_data(chain))))
    assert chain_data(again) == chain_data(chain)
    assert again.run(values, ScriptedChat(echo)).answer == "en 7"


CHAINS = [
    Ask("{{ a }}") | Lines(),
    Ask("{{ a }}", gives="x", temperature=0.5, stop=("a", "b")).named("asking").retrying(4, first_wait_s=0.1)
    | Fill("{{ x }}"),
    (Ask("{{ a }}") | Json()).retrying(2) | Fill("{{ data }}"),
    Inputs("a")
    | (Ask("{{ a }}", gives="b") & (Fill("{{ a }}") | Ask(gives="c", model="big")))
    | Regex("x", of="c", every=True),
    Chain(Ask("{{ a }}", gives="b"), Ask("{{ b }}", gives="c"), name="two", answer="b"),
    Chain(Chain(Ask("{{ a }}", gives="b"), Fill("{{ b }}"), answer="b"), Fill("{{ b }}!", gives="z")),
    Split("a", by="paragraphs") | Map(Ask("{{ item }}"), over="parts") | Reduce(Fill("{{ texts }}"), over="answers"),
    Split("a", size=9, overlap=2) | Call("join", reads={"texts": "parts"}, fixed={"separator": "-"}, gives="j"),
    Branch("a", {"x": Fill("1", gives="z"), "y": Fill("2") | Ask(gives="z")}, otherwise=Fill("3", gives="z")),
    Schema(record("Answer", {"n": "int", "names": "list[text]"})) | Lines(of="answer", marks=True),
]


@pytest.mark.parametrize("chain", CHAINS, ids=range(len(CHAINS)))
def test_what_is_saved_is_what_is_loaded(chain, tmp_path):
    save_chain(chain, tmp_path / "chain.yaml")
    again = load_chain(tmp_path / "chain.yaml")
    assert {**chain_data(again), "name": ""} == {**chain_data(chain), "name": ""}
    assert dict(again.takes) == dict(chain.takes)
    assert list(again.gives) == list(chain.gives)


class Own(BaseModel):
    a: int | None


@pytest.mark.parametrize(
    ("chain", "says"),
    [
        (Fill("x") | Call(lambda prompt: 1, gives="y"), "a function that YAML cannot name"),
        (Ask("x", chat=ScriptedChat([])), "a partner of its own"),
        (Ask("x", logprobs=2), "option logprobs, which YAML cannot hold"),
        (Fill(Template("{{ a }}", types={"a": int})), "types, which YAML cannot hold"),
        (Schema(Own), "a model that YAML cannot hold"),
        (Branch(lambda values: "a", {"a": Fill("x")}), "chooses by a function"),
    ],
)
def test_what_yaml_cannot_hold_is_said(chain, says, tmp_path):
    with pytest.raises(PromptError, match=says):
        save_chain(chain, tmp_path / "chain.yaml")
    assert not (tmp_path / "chain.yaml").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "the chain is \\[\\]; write a group of keys"),
        ("name: x", "the chain has no steps"),
        ("step: []", "the chain has the unknown key 'step'; did you mean 'steps'"),
        ("steps: []", "steps is \\[\\]; write a step, or a list of steps"),
        ("steps: [ask]", "steps.0 is 'ask'; a step is a group of keys"),
        ("steps: [{aks: x}]", "steps.0 says no kind of step; it has aks; did you mean 'ask'"),
        ("steps: [{ask: x, give: y}]", "steps.0 has the unknown key 'give'; did you mean 'gives'"),
        ("steps: [{ask: x, fill: y}]", "steps.0 has the unknown key 'fill'"),
        ("steps: [{ask: 3}]", "steps.0.ask is 3; write text"),
        ("steps: [{ask: '{{ x'}]", "steps.0: the template of ask, line 1"),
        (
            "steps: [{ask: x, options: {temprature: 1}}]",
            "steps.0.options has the unknown option 'temprature'; did you mean 'temperature'",
        ),
        ("steps: [{ask: x, options: {temperature: -1}}]", "steps.0.options: temperature=-1 is out of range"),
        ("steps: [{ask: x, options: {temperature: warm}}]", "steps.0.options"),
        (
            "steps: [{ask: x, retries: {attemps: 3}}]",
            "steps.0.retries has the unknown key 'attemps'; did you mean 'attempts'",
        ),
        ("steps: [{ask: x, retries: {attempts: 0}}]", "at least 1 attempt"),
        ("steps: [{ask: x, retries: often}]", "steps.0.retries is 'often'"),
        (
            "steps: [{fill: x}, {ask: y}, {parse: jsn, of: answer}]",
            "steps.2.parse has the unknown key 'jsn'; did you mean 'json'",
        ),
        (
            "steps: [{parse: {fields: {a: txt}}}]",
            "steps.0: Answer.a has the kind 'txt', which there is not; did you mean 'text'",
        ),
        ("steps: [{call: os.system}]", "steps.0: there is no function 'os.system'"),
        (
            "steps: [{call: evil.py:run}]",
            "steps.0: it calls 'evil.py:run', which would run the code of that file.*--allow-code",
        ),
        ("steps: [{split: a, size: big}]", "steps.0.size is 'big'; write a whole number"),
        ("steps: [{map: {fill: x}}]", "steps.0 has no `over`"),
        ("steps: [{parallel: {fill: x}}]", "parallel is .*; write a list"),
        ("steps: [{map: [{aks: x}], over: y}]", "steps.0.map.0 says no kind of step"),
        ("inputs: {a: string}\nsteps: [{fill: '{{ a }}'}]", "inputs.a has the kind 'string'"),
        (
            "inputs: [product]\nsteps: [{fill: '{{ prodct }}'}]",
            "needs 'prodct', which nobody gives it; did you mean 'product'",
        ),
        ("steps: " + "[{chain: " * 25 + "x" + "}]" * 25, "more than 20 deep"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text, says):
    with pytest.raises(PromptError, match=says):
        made(text)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(PromptError, match=r"cannot read the chain .*none.yaml: No such file"):
        load_chain(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(PromptError, match=r"bad.yaml is not valid YAML"):
        load_chain(tmp_path / "bad.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(PromptError, match=r"latin.yaml is not valid YAML"):
        load_chain(tmp_path / "latin.yaml")
    (tmp_path / "twice.yaml").write_text("steps: []\nsteps: []")
    with pytest.raises(PromptError, match=r"twice\.yaml"):
        load_chain(tmp_path / "twice.yaml")
    (tmp_path / "python.yaml").write_text("steps: !!python/object/apply:os.system ['touch evil']")
    with pytest.raises(PromptError, match=r"python\.yaml"):
        load_chain(tmp_path / "python.yaml")
    (tmp_path / "named.yaml").write_text("steps: [{aks: x}]")
    with pytest.raises(PromptError, match=r"named.yaml: steps.0 says no kind"):
        load_chain(tmp_path / "named.yaml")


def test_code_of_a_file_runs_only_where_that_is_allowed(tmp_path):
    mark = tmp_path / "ran"
    (tmp_path / "tools.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\n\ndef shout(text: str) -> str:\n    return text.upper()\n"
    )
    file = tmp_path / "chain.yaml"
    file.write_text("steps: [{call: 'tools.py:shout', gives: loud}]")
    with pytest.raises(PromptError, match="--allow-code"):
        load_chain(file)
    assert not mark.exists()
    chain = load_chain(file, allow_code=True)
    assert chain.run({"text": "a"}).answer == "A"
    assert chain.takes == {"text": str}
    save_chain(chain, tmp_path / "again.yaml")
    assert load_chain(tmp_path / "again.yaml", allow_code=True).run({"text": "b"}).answer == "B"
    for called, says in (
        ("tools.py:shot", "did you mean 'shout'"),
        ("none.py:f", "there is no file .*none.py"),
        ("broken.py:f", "broken.py cannot be loaded: SyntaxError"),
    ):
        (tmp_path / "broken.py").write_text("def f(:")
        file.write_text(f"steps: [{{call: '{called}', gives: loud}}]")
        with pytest.raises(PromptError, match=says):
            load_chain(file, allow_code=True)


def test_a_program_may_give_functions_of_its_own(tmp_path):
    file = tmp_path / "chain.yaml"
    file.write_text("steps: [{call: double, gives: twice}]")
    chain = load_chain(Path(file), functions={"double": lambda x: 2 * x})
    assert chain.run({"x": 4}).answer == 8
    with pytest.raises(PromptError, match="there is no function 'double'"):
        load_chain(file)
