"""Models with a strategy around them, beside the models themselves."""

import openai
import pytest

from dunwu.cli import run
from dunwu.core.errors import RecipeError
from dunwu.serve.source import ModelSource
from dunwu.serve.ways import StrategyShelf, Way, way

from .live import running

ASKED = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def client(folder):
    sources = [
        ModelSource(id="kitten", folder=folder, instruction_tuned=True),
        ModelSource(id="kitten:pretrain", folder=folder, stage="pretrain", instruction_tuned=False, lazy=True),
    ]
    with running(*sources, ways=[way("cot:tokens=4"), way("three=self-consistency:n=3")]) as live:
        yield openai.OpenAI(base_url=live.api, api_key="none", max_retries=0, timeout=30)


def ask(client, model, asked=ASKED, **settings):
    return client.chat.completions.create(model=model, messages=asked, **settings)


def test_ways_are_offered_beside_the_models(client):
    listed = {model.id: model.parent for model in client.models.list()}
    assert listed == {"kitten": None, "kitten:pretrain": None, "kitten:cot": "kitten", "kitten:three": "kitten"}


def test_a_way_asks_the_model_as_its_strategy_does(client):
    settings = {"temperature": 0.0, "seed": 1}
    stepped = ask(client, "kitten:cot", max_tokens=8, **settings)
    asked = [{"role": "user", "content": "hello\nLet's think step by step."}]
    plain = ask(client, "kitten", asked, max_tokens=12, **settings)
    assert stepped.choices[0].message.content == plain.choices[0].message.content
    assert stepped.usage.total_tokens == plain.usage.total_tokens
    assert stepped.model == "kitten:cot"


def test_usage_is_that_of_all_that_was_drawn_and_the_seed_decides(client):
    one = ask(client, "kitten", max_tokens=8, temperature=0.0)
    drawn = ask(client, "kitten:three", max_tokens=8, seed=5)
    assert drawn.usage.prompt_tokens == 3 * one.usage.prompt_tokens
    assert 3 <= drawn.usage.completion_tokens <= 24
    again = ask(client, "kitten:three", max_tokens=8, seed=5)
    assert again.choices[0].message.content == drawn.choices[0].message.content
    streamed = ask(client, "kitten:three", max_tokens=8, seed=5, stream=True)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    assert said == drawn.choices[0].message.content


def test_a_way_answers_conversations_alone(client):
    with pytest.raises(openai.BadRequestError, match="a strategy around 'kitten', which answers /v1/chat/completions"):
        client.completions.create(model="kitten:cot", prompt="x")
    with pytest.raises(openai.NotFoundError, match="kitten:nothing"):
        ask(client, "kitten:nothing")
    assert client.completions.create(model="kitten", prompt="x", max_tokens=2).choices[0].text is not None


def test_names_of_ways():
    assert way("cot+self-consistency:n=8") == Way(name="cot+self-consistency", strategy="cot+self-consistency:n=8")
    assert way("careful=cot:tokens=9") == Way(name="careful", strategy="cot:tokens=9")
    assert way("self-consistency:n=8").name == "self-consistency"
    with pytest.raises(RecipeError, match="did you mean cot"):
        way("careful=cott")
    with pytest.raises(RecipeError, match="is no name for the strategy"):
        way("=cot")


def test_names_that_meet_are_refused(folder):
    kitten = ModelSource(id="kitten", folder=folder)
    with pytest.raises(RecipeError, match="two strategies are called 'cot'"):
        StrategyShelf([kitten], lambda source: None, [way("cot"), way("cot:tokens=3")])
    with pytest.raises(RecipeError, match="kitten:cot is a model already"):
        StrategyShelf([kitten, ModelSource(id="kitten:cot", folder=folder)], lambda source: None, [way("cot")])
    base = ModelSource(id="kitten", folder=folder, instruction_tuned=False)
    with pytest.raises(RecipeError, match="none of these was"):
        StrategyShelf([base], lambda source: None, [way("cot")])


def test_the_command_line_says_what_does_not_go_together(tmp_path, capsys):
    file = tmp_path / "gateway.yaml"
    file.write_text("partners: {a: {model: m}}\nroutes: {r: a}\n")
    assert run(["serve", str(file), "--strategy", "cot"]) == 2
    assert "give a route its `strategy: cot`" in capsys.readouterr().err
    assert run(["serve", str(tmp_path / "none"), "--strategy", "cott"]) == 2
    assert "did you mean cot?" in capsys.readouterr().err
