"""Models elsewhere behind the same API. The endpoint elsewhere is another server of ours."""

import json

import openai
import pytest

from dunwu.core.errors import RecipeError
from dunwu.serve.gateway import Gateway, GatewayFile, read_gateway
from dunwu.serve.keys import add_key
from dunwu.serve.models import ModelSource, Shelf
from dunwu.serve.settings import ServeSettings

from .live import running, send
from .test_tools import WEATHER, gather, require_valid

ASKED = [{"role": "user", "content": "hello"}]


def entries(url):
    far = {"url": url, "model": "kitten", "attempts": 1, "price": {"prompt": 1.0, "completion": 2.0}}
    return {
        "models": {
            "far": far,
            "gone": {**far, "url": "http://127.0.0.1:9/v1"},
            "wrong": {**far, "model": "dog"},
            "safe": {"fallback": ["gone", "far"]},
            "team": {"cascade": ["near", "far"], "sure_above": -1e-9},
        },
        "budgets": {"poor": {"limit": 0.0}, "everyone": {"limit": 100.0}},
    }


@pytest.fixture(scope="module")
def gate(live, folder, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    secrets = {name: add_key(keys, name) for name in ("rich", "poor")}
    settings = ServeSettings(port=0, drain_timeout_s=5, api_keys=keys)
    file = GatewayFile.model_validate(entries(live.api))
    with running(ModelSource(id="near", folder=folder), settings=settings, gateway=file) as server:
        yield server, secrets


@pytest.fixture(scope="module")
def rich(gate):
    server, secrets = gate
    return openai.OpenAI(base_url=server.api, api_key=secrets["rich"], max_retries=0, timeout=30)


def ask(client, **more):
    return client.chat.completions.create(
        **{"model": "far", "messages": ASKED, "max_tokens": 8, "temperature": 0, "seed": 1, **more}
    )


def test_an_answer_from_elsewhere_is_the_answer(rich, client):
    far, near = ask(rich, logprobs=True, top_logprobs=2), ask(client, model="kitten", logprobs=True, top_logprobs=2)
    assert far.choices[0].message == near.choices[0].message
    assert far.choices[0].finish_reason == "length"
    assert [one.token for one in far.choices[0].logprobs.content] == [
        one.token for one in near.choices[0].logprobs.content
    ]
    assert far.usage.prompt_tokens == near.usage.prompt_tokens
    *chunks, last = ask(rich, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == near.choices[0].message.content
    assert last.usage.completion_tokens == 8


def test_calls_of_tools_and_schemas_pass_through(rich):
    more = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 150}
    whole = ask(rich, **more).choices[0]
    assert whole.finish_reason == "tool_calls"
    require_valid(whole.message.tool_calls[0])
    calls, text, reason = gather(ask(rich, **more, stream=True))
    assert [call["arguments"] for call in calls] == [whole.message.tool_calls[0].function.arguments]
    assert (text, reason) == ("", "tool_calls")
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert "ok" in json.loads(ask(rich, response_format=form, max_tokens=100).choices[0].message.content)


def test_a_route_goes_round_what_does_not_answer(rich):
    assert ask(rich, model="safe").choices[0].message == ask(rich).choices[0].message
    assert ask(rich, model="team").choices[0].message == ask(rich).choices[0].message
    assert [one.id for one in rich.models.list()] == ["near", "far", "gone", "wrong", "safe", "team"]


def test_what_goes_wrong_elsewhere_has_the_right_status(rich):
    with pytest.raises(openai.InternalServerError, match="cannot be reached") as gone:
        ask(rich, model="gone")
    assert gone.value.status_code == 503
    with pytest.raises(openai.InternalServerError, match="has no model 'dog'") as wrong:
        ask(rich, model="wrong", stream=True)
    assert wrong.value.status_code == 502
    with pytest.raises(openai.BadRequestError, match="top_k=3 is not for models behind the gateway"):
        ask(rich, extra_body={"top_k": 3})


def test_each_key_has_its_budget_and_what_was_taken_is_told(gate, rich):
    server, secrets = gate
    ask(rich)
    poor = openai.OpenAI(base_url=server.api, api_key=secrets["poor"], max_retries=0)
    with pytest.raises(openai.RateLimitError, match="the budget of poor is spent") as refused:
        ask(poor)
    assert refused.value.code == "insufficient_quota"
    counts = send(f"{server.url}/metrics", headers={"authorization": f"Bearer {secrets['rich']}"}).body.decode()
    costs = [line for line in counts.splitlines() if line.startswith('dunwu_partner_cost_total{partner="far"}')]
    assert float(costs[0].split()[-1]) > 0


@pytest.mark.parametrize(
    ("models", "complaint"),
    [
        ({"a": {"fallback": ["b"]}, "b": {"fallback": ["a"]}}, "a → b → a leads back to itself"),
        ({"a": {"fallback": ["x"]}}, "there is no model 'x'; there are: a, near"),
        ({"near": {"url": "http://x/v1", "model": "m"}}, "two models are called 'near'"),
        ({"a": {"url": "http://x/v1"}}, "models.a.model is missing"),
        ({"a": {}}, "models.a has none of url, fallback and cascade"),
        ({"a": {"cascade": ["near", "near"]}}, "models.a must say when an answer is sure"),
    ],
)
def test_a_gateway_that_cannot_be_is_refused_at_once(folder, models, complaint):
    shelf = Shelf([ModelSource(id="near", folder=folder)], lambda _: pytest.fail("read"))
    with pytest.raises(RecipeError, match=complaint):
        Gateway(GatewayFile.model_validate({"models": models}), shelf)


def test_a_misspelt_key_of_the_file_names_the_nearest(tmp_path):
    file = tmp_path / "gateway.yaml"
    file.write_text("models:\n  a: {url: http://x/v1, modl: m, attempts: 0}\n")
    with pytest.raises(RecipeError, match=r"models\.a\.modl: did you mean model\?"):
        read_gateway(file)
    file.write_text("models:\n  a: {url: http://x/v1, model: m}\nbudgets:\n  ann: {limit: 3, period: day}\n")
    assert read_gateway(file).budgets["ann"].period == "day"
