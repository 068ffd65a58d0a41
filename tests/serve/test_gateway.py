"""Partners behind the same API: routes, fallbacks, cascades and budgets, through OpenAI's own client."""

import contextlib
import io
import json
import threading
from functools import partial

import openai
import pytest
import uvicorn

from dunwu.chat.bridge import Blocking
from dunwu.chat.remote import RemoteChat
from dunwu.core.errors import RecipeError
from dunwu.core.records import Message
from dunwu.core.yaml import parse_yaml
from dunwu.serve.app import create_app
from dunwu.serve.gateway import RoutedShelf
from dunwu.serve.gateway_config import GatewayConfig, load_gateway
from dunwu.serve.keys import add_key
from dunwu.serve.logs import Log
from dunwu.serve.models import load_served_model
from dunwu.serve.run import bind, uvicorn_config
from dunwu.serve.settings import ServeSettings
from dunwu.serve.source import ModelSource
from tests.chat.fake_openai import fake_openai

from .live import OPTIONS, Live, send, wait_until

FILE = """
partners:
  small: {model: kitten}
  good: {url: URL, model: good, key_env: TEST_GATEWAY_KEY, price: {prompt: 1000000, completion: 1000000}, attempts: 1}
  broken: {url: URL, model: bad gateway, attempts: 1, timeout: 5s}
  busy: {url: URL, model: busy, attempts: 1}
  tools: {url: URL, model: tools}
  cut: {url: URL, model: cut, attempts: 1}
routes:
  kitten: small
  remote: good
  tools: tools
  broken: broken
  busy: busy
  cut: cut
  reliable: {fallback: [broken, remote]}
  cascade: {cascade: [small, good], sure: {mean_logprob: -0.0001}}
  easy: {cascade: [small, good], sure: {mean_logprob: -50}}
  thought: {chat: good, strategy: "think-first:calls=2"}
  stepwise: {chat: kitten, strategy: cot}
budgets:
  ann: {limit: 10, period: total}
ledger: spent
"""
HELLO = [{"role": "user", "content": "hello"}]


@contextlib.contextmanager
def gateway(folder, model_folder, url):
    """A gateway over one model of random weights and one server that misbehaves."""
    secrets = {name: add_key(folder / "keys.json", name) for name in ("ann", "bob")}
    config = GatewayConfig.model_validate(parse_yaml(FILE.replace("URL", url)))
    settings = ServeSettings(port=0, drain_timeout_s=5, api_keys=folder / "keys.json")
    load = partial(load_served_model, options=OPTIONS)
    shelf = RoutedShelf(config, [ModelSource(id="small", folder=model_folder)], load, folder=folder)
    listener = bind(settings)
    server = uvicorn.Server(uvicorn_config(create_app(shelf, settings, log=Log(io.StringIO())), settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: shelf.state == "ready", "the gateway did not start")
        yield Live(shelf, f"http://127.0.0.1:{listener.getsockname()[1]}"), secrets
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def running(tmp_path_factory, folder):
    with fake_openai() as fake, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_GATEWAY_KEY", "of the team")
        with gateway(tmp_path_factory.mktemp("gateway"), folder, fake.url) as (live, secrets):
            yield live, secrets, fake


@pytest.fixture
def bob(running):
    live, secrets, _ = running
    return openai.OpenAI(base_url=live.api, api_key=secrets["bob"], max_retries=0, timeout=30)


def ask(client, model, **settings):
    return client.chat.completions.create(model=model, messages=HELLO, **settings)


def test_routes_are_the_models_and_partners_are_not(bob):
    assert [model.id for model in bob.models.list()][:3] == ["kitten", "remote", "tools"]
    with pytest.raises(openai.NotFoundError, match="'small' does not exist; there are: kitten, remote"):
        ask(bob, "small")
    with pytest.raises(openai.BadRequestError, match="answers /v1/chat/completions alone"):
        bob.completions.create(model="kitten", prompt="x")


def test_a_local_partner_answers_whole_and_streamed(bob):
    settings = {"max_tokens": 12, "seed": 3, "temperature": 1.0}
    whole = ask(bob, "kitten", **settings)
    chunks = list(ask(bob, "kitten", stream=True, stream_options={"include_usage": True}, **settings))
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        == whole.choices[0].message.content
    )
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert whole.usage.completion_tokens > 0
    assert whole.model == "kitten"


def test_a_route_may_have_a_strategy_around_it(bob):
    done = ask(bob, "thought")
    assert (done.choices[0].message.content, done.choices[0].message.reasoning_content) == ("Hello 你好", "Hello 你好")
    deltas = [chunk.choices[0].delta for chunk in ask(bob, "thought", stream=True)]
    assert "".join(getattr(one, "reasoning_content", None) or "" for one in deltas) == "Hello 你好"
    assert "".join(one.content or "" for one in deltas) == "Hello 你好"
    stepped = ask(bob, "stepwise", max_tokens=6, temperature=0)
    asked = [{"role": "user", "content": "hello\nLet's think step by step."}]
    plain = bob.chat.completions.create(model="kitten", messages=asked, max_tokens=518, temperature=0)
    assert stepped.choices[0].message.content == plain.choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="cot answers in words, and takes no logprobs"):
        ask(bob, "stepwise", logprobs=True)


def test_a_remote_partner_answers_with_the_teams_key(running, bob):
    done = ask(bob, "remote", logprobs=True, top_logprobs=1)
    assert done.choices[0].message.content == "Hello 你好"
    assert done.choices[0].finish_reason == "stop"
    assert done.usage.prompt_tokens_details.cached_tokens == 2
    assert [one.token for one in done.choices[0].logprobs.content] == ["Hel", "lo ", "你", "好"]
    assert running[2].keys[-1] == "Bearer of the team"
    texts = [chunk.choices[0].delta.content for chunk in ask(bob, "remote", stream=True)]
    assert [text for text in texts if text] == ["Hel", "lo ", "你", "好"]


def test_calls_of_a_remote_partner_stream_through(bob):
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    done = ask(bob, "tools", tools=[tool], tool_choice="required")
    assert [(call.id, call.function.name, call.function.arguments) for call in done.choices[0].message.tool_calls] == [
        ("a", "look", '{"at": 1}'),
        ("b", "stop", "{}"),
    ]
    assert done.choices[0].finish_reason == "tool_calls"
    said: dict[int, str] = {}
    for chunk in ask(bob, "tools", tools=[tool], stream=True):
        for call in chunk.choices[0].delta.tool_calls or ():
            said[call.index] = said.get(call.index, "") + call.function.arguments
    assert said == {0: '{"at": 1}', 1: "{}"}


def test_another_partner_answers_for_one_that_is_down(bob):
    assert ask(bob, "reliable").choices[0].message.content == "Hello 你好"


def test_the_large_partner_is_asked_where_the_small_one_is_not_sure(bob):
    unsure = ask(bob, "cascade", max_tokens=8, temperature=1.0, seed=1)
    assert unsure.choices[0].message.content == "Hello 你好"
    assert unsure.choices[0].logprobs is None
    easy = ask(bob, "easy", max_tokens=8, temperature=1.0, seed=1)
    assert easy.choices[0].message.content != "Hello 你好"


def test_failures_have_the_right_status_before_anything_is_streamed(bob):
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError, match="failed \\(502"):
            ask(bob, "broken", stream=stream)
        with pytest.raises(openai.InternalServerError) as caught:
            ask(bob, "busy", stream=stream)
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "7"
    with pytest.raises(openai.InternalServerError, match="broke off"):
        ask(bob, "cut")
    with pytest.raises(openai.APIError, match="broke off"):
        list(ask(bob, "cut", stream=True))


def test_what_partners_do_not_know_is_refused(bob):
    for settings in ({"n": 2}, {"extra_body": {"top_k": 5}}, {"logit_bias": {"5": 1}}):
        with pytest.raises(openai.BadRequestError, match=r"leave it out|one answer"):
            ask(bob, "remote", **settings)
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}
    with pytest.raises(openai.BadRequestError, match="nothing"):
        ask(bob, "kitten", response_format=schema)
    with pytest.raises(openai.BadRequestError, match="shorten it"):
        bob.chat.completions.create(model="kitten", messages=[{"role": "user", "content": "x" * 20_000}])


def test_each_key_pays_from_its_own_budget(running, bob):
    live, secrets, _ = running
    ann = openai.OpenAI(base_url=live.api, api_key=secrets["ann"], max_retries=0, timeout=30)
    assert ask(ann, "remote").choices[0].message.content == "Hello 你好"  # costs 7 of 10
    list(ask(ann, "remote", stream=True))
    with pytest.raises(openai.RateLimitError, match=r"the budget of ann is spent: 14\.0000 of 10") as caught:
        ask(ann, "remote")
    assert caught.value.code == "insufficient_quota"
    with pytest.raises(openai.RateLimitError):
        ask(ann, "kitten", max_tokens=2)
    assert ask(bob, "remote").choices[0].message.content == "Hello 你好"
    kept = json.loads((live.shelf._purse.folder / "ann.json").read_text())
    assert kept["spent"] == 14


def test_partners_are_counted_for_prometheus(running, bob):
    ask(bob, "remote")
    live, secrets, _ = running
    text = send(f"{live.url}/metrics", headers={"authorization": f"Bearer {secrets['bob']}"}).body.decode()
    counted = {
        line.split(" ")[0]: float(line.split(" ")[1]) for line in text.splitlines() if line.startswith("dunwu_partner")
    }
    assert counted['dunwu_partner_asked_total{partner="good"}'] >= 1
    assert counted['dunwu_partner_cost_total{partner="good"}'] >= 7


def test_a_gateway_is_a_partner_of_another(running):
    """Our own server at both ends."""
    live, secrets, _ = running
    chat = Blocking(RemoteChat(live.api, "kitten", api_key=secrets["bob"]))
    asked = [Message(role="user", content="a cat")]
    options = {"max_tokens": 10, "temperature": 1.0, "seed": 2, "logprobs": 2}
    done = chat.reply(asked, **options)
    assert done.usage.completion_tokens == len(done.logprobs) > 0
    assert "".join(chat.stream(asked, **options)) == done.text
    chat.close()


BAD = {
    "partners: {a: {model: m}}": "routes is missing",
    "partners: {a: {modle: m}}\nroutes: {r: a}": "did you mean model?",
    "partners: {a: {model: m}}\nroutes: {r: b}": "names the partner 'b', which there is not",
    "partners: {small: {model: m}}\nroutes: {r: smal}": "did you mean small?",
    "partners: {a: {model: m, timeout: 5s}}\nroutes: {r: a}": "is for a partner with a url",
    "partners: {a: {model: m, url: 'ftp://x'}}\nroutes: {r: a}": "must begin with http",
    "partners: {a: {model: m, url: 'http://x', timeout: soon}}\nroutes: {r: a}": "is not a duration",
    "partners: {a: {model: m, price: {prompt: -1}}}\nroutes: {r: a}": "partners.a.price.prompt: Input should be greater",
    "partners: {a: {model: m}}\nroutes: {r: {cascade: [a, a]}}": "a cascade needs `sure`",
    "partners: {a: {model: m}}\nroutes: {r: {chat: a, strategy: cott}}": "did you mean cot?",
    "partners: {a: {model: m}}\nroutes: {r: {chat: a, fallback: [a]}}": "give one of chat, cascade and fallback",
    "partners: {a: {model: m}}\nroutes: {r: {cascade: [a, a], sure: {agree: 1}}}": "give one of mean_logprob and samples",
    "partners: {a: {model: m}}\nroutes: {r: {fallback: [a, s]}, s: {fallback: [r]}}": "leads to itself",
    "partners: {a: {model: m}}\nroutes: {r: a}\nbudgets: {x: {limt: 1}}": "did you mean limit?",
    "partners: {a: {model: m}}\nroutes: {r: a}\nkeys: sk-1": "unknown key keys: known are partners, routes",
    "- a": "begin with `partners:`",
    "a: [": "give a YAML file",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_file_says_what_to_write(tmp_path, text):
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_gateway(file)
    assert BAD[text] in str(caught.value)
