"""Chains as models: around those of a server, and in a gateway's routes."""

import contextlib
import io
import json
import threading

import openai
import pytest
import uvicorn

from dunwu.core.errors import PromptError, RecipeError
from dunwu.core.yaml import parse_yaml
from dunwu.serve.app import create_app
from dunwu.serve.gateway import RoutedShelf
from dunwu.serve.gateway_config import GatewayConfig, load_gateway
from dunwu.serve.logs import Log
from dunwu.serve.run import bind, uvicorn_config
from dunwu.serve.settings import ServeSettings
from dunwu.serve.source import ModelSource
from dunwu.serve.ways import chain_way
from tests.chat.fake_openai import fake_openai

from .live import running, wait_until

CHAIN = """
name: twice
steps:
  - {ask: "a cat {{ question }}", gives: first, options: {max_tokens: 5, temperature: 0.0}}
  - {fill: "{{ first }} sat", gives: prompt}
  - {ask: null, gives: second}
"""
PARSED = """
inputs: [a, b]
steps: [{fill: "{{ a }} and {{ b }}", gives: both}]
"""
ASKED = [{"role": "user", "content": "sat"}]


@contextlib.contextmanager
def gateway_of(shelf):
    """Its address, until the block ends."""
    settings = ServeSettings(port=0, drain_timeout_s=5)
    listener = bind(settings)
    server = uvicorn.Server(uvicorn_config(create_app(shelf, settings, log=Log(io.StringIO())), settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: shelf.state == "ready", "the gateway did not start")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


def ask(client, model, asked=ASKED, **settings):
    return client.chat.completions.create(model=model, messages=asked, **settings)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    place = tmp_path_factory.mktemp("chains")
    (place / "twice.yaml").write_text(CHAIN)
    (place / "parsed.yaml").write_text(PARSED)
    (place / "named.yaml").write_text("steps: [{ask: x, model: good}]")
    (place / "code.yaml").write_text("steps: [{call: 'evil.py:run', gives: x}]")
    (place / "evil.py").write_text("def run(question):\n    return 'ran ' + question\n")
    return place


@pytest.fixture(scope="module")
def client(folder, files):
    ways = [chain_way(str(files / "twice.yaml")), chain_way(f"parse={files / 'parsed.yaml'}")]
    with running(ModelSource(id="kitten", folder=folder, instruction_tuned=True), ways=ways) as live:
        yield openai.OpenAI(base_url=live.api, api_key="none", max_retries=0, timeout=30)


def test_a_chain_is_offered_beside_its_model_and_asks_it(client):
    assert [model.id for model in client.models.list()] == ["kitten", "kitten:twice", "kitten:parse"]
    settings = {"temperature": 0.0, "seed": 1}
    first = ask(client, "kitten", [{"role": "user", "content": "a cat sat"}], max_tokens=5, **settings)
    said = first.choices[0].message.content
    second = ask(client, "kitten", [{"role": "user", "content": f"{said} sat"}], max_tokens=9, **settings)
    whole = ask(client, "kitten:twice", max_tokens=9, **settings)
    assert whole.choices[0].message.content == second.choices[0].message.content
    assert whole.usage.completion_tokens == first.usage.completion_tokens + second.usage.completion_tokens
    chunks = list(ask(client, "kitten:twice", max_tokens=9, stream=True, **settings))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len(pieces) > 1


def test_values_come_in_the_last_message(client):
    asked = [{"role": "user", "content": json.dumps({"a": "{{ b }}", "b": "y"})}]
    assert ask(client, "kitten:parse", asked).choices[0].message.content == "{{ b }} and y"
    with pytest.raises(openai.BadRequestError, match="this chain takes a, b: write them in the last message"):
        ask(client, "kitten:parse")
    with pytest.raises(openai.BadRequestError, match="follows no schema of others"):
        ask(client, "kitten:parse", asked, response_format={"type": "json_object"})


def test_chains_that_cannot_stand_around_a_model_are_refused(files, folder):
    with pytest.raises(PromptError, match="--allow-code"):
        chain_way(str(files / "code.yaml"))
    assert chain_way(str(files / "code.yaml"), allow_code=True).name == "code"
    with pytest.raises(RecipeError, match="is no name for the chain"):
        chain_way(f"={files / 'twice.yaml'}")
    ways = [chain_way(str(files / "named.yaml"))]
    source = ModelSource(id="kitten", folder=folder, instruction_tuned=True)
    with (
        pytest.raises(PromptError, match="asks the model 'good', and around a model it has that one alone"),
        running(source, ways=ways),
    ):
        pass


def test_routes_may_be_chains_that_ask_several_partners(files):
    text = """
partners:
  good: {url: URL, model: good, attempts: 1, key_env: TEST_GATEWAY_KEY}
  broken: {url: URL, model: bad gateway, attempts: 1}
routes:
  plain: good
  twice: {chat: good, chain: twice.yaml}
  named: {chat: broken, chain: named.yaml}
  code: {chat: good, chain: code.yaml, allow_code: true}
  fails: {chat: broken, chain: twice.yaml}
"""
    with fake_openai() as fake, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_GATEWAY_KEY", "of the team")
        patch.setenv("OPENAI_API_KEY", "of the team")
        config = GatewayConfig.model_validate(parse_yaml(text.replace("URL", fake.url)))
        with gateway_of(RoutedShelf(config, [], lambda source: None, folder=files)) as url:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30)
            assert ask(client, "twice").choices[0].message.content == "Hello 你好"
            assert ask(client, "named").choices[0].message.content == "Hello 你好"
            assert ask(client, "code").choices[0].message.content == "ran sat"
            with pytest.raises(openai.APIStatusError) as failed:
                ask(client, "fails")
            assert failed.value.status_code in (502, 503)


@pytest.mark.parametrize(
    ("routes", "says"),
    [
        ("a: {chat: p, chain: none.yaml}", r"cannot read the chain .*none.yaml"),
        ("a: {chat: p, chain: code.yaml}", "--allow-code"),
        ("a: {chat: p, chain: named.yaml}", "named.yaml asks 'good', which there is not"),
        ("good: {chat: p, chain: named.yaml}", "asks the route 'good', which is a chain itself or leads to 'good'"),
        ("good: {fallback: [a]}\n  a: {chat: p, chain: named.yaml}", "leads to 'a'"),
    ],
)
def test_routes_that_cannot_be_are_said_at_the_start(files, routes, says):
    config = GatewayConfig.model_validate(parse_yaml(f"partners:\n  p: {{model: kitten}}\nroutes:\n  {routes}\n"))
    with pytest.raises((PromptError, RecipeError), match=says):
        RoutedShelf(config, [], lambda source: None, folder=files)


def test_an_unknown_key_of_a_route_is_near_chain(tmp_path):
    (tmp_path / "g.yaml").write_text("partners:\n  p: {model: k}\nroutes:\n  a: {chat: p, chan: x.yaml}\n")
    with pytest.raises(RecipeError, match=r"unknown key routes\.a\.chan: did you mean chain"):
        load_gateway(tmp_path / "g.yaml")
