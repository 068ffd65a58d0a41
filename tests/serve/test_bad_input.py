"""What a server gets that nobody should send: the right answer, nothing hangs, and the next request works."""

import json

import pytest

from dunwu.serve.keys import add_key
from dunwu.serve.settings import ServeSettings
from dunwu.serve.source import ModelSource

from .live import running, send, start, wait_until

CHAT, TEXT, EMBED, TOKENS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize"
BODIES = {
    CHAT: {"model": "kitten", "messages": [{"role": "user", "content": "a cat"}], "max_tokens": 3},
    TEXT: {"model": "kitten", "prompt": "a cat", "max_tokens": 3},
    EMBED: {"model": "kitten", "input": "a cat"},
    TOKENS: {"model": "kitten", "prompt": "a cat"},
}


def schema(inner):
    """A request for JSON of this schema."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": inner}}
    return CHAT, {"response_format": form}


def nested(depth):
    inner = {"type": "string"}
    for _ in range(depth):
        inner = {"type": "object", "properties": {"a": inner}}
    return inner


def assert_works(live):
    for path, body in BODIES.items():
        assert send(live.url + path, body).status == 200, path


def error_of(reply):
    """The error, whose form is checked."""
    error = reply.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"{'model': 'kitten'}",
        b'{"model": "kitten",}',
        b"\x00\x01\x02",
        b'{"model": "\xff\xfe"}',
        json.dumps(BODIES[CHAT]).encode("utf-16"),
        b'{"model": "kitten", "messages": ' + b"[" * 100_000,
        b'{"model": "kitten", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "kitten", "temperature": 1e999, "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "kitten", "seed": 1' + b"0" * 5000 + b', "messages": [{"role": "user", "content": "x"}]}',
    ],
    ids=lambda body: body[:24],
)
def test_what_is_not_json_or_no_request_is_400(live, body):
    for path in BODIES:
        reply = send(live.url + path, body)
        assert reply.status == 400, (path, reply.body)
        assert error_of(reply)["type"] == "invalid_request_error"
    assert_works(live)


WRONG = [
    (CHAT, {"messages": []}),
    (CHAT, {"messages": "hello"}),
    (CHAT, {"messages": [1]}),
    (CHAT, {"messages": [{"role": "user", "content": 5}]}),
    (CHAT, {"messages": [{"role": "emperor", "content": "x"}]}),
    (CHAT, {"messages": None}),
    (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}),
    (CHAT, {"guided_choice": ["\udfff"]}),
    (CHAT, {"logit_bias": {"": 0}}),
    (CHAT, {"model": 5}),
    (CHAT, {"max_tokens": "many"}),
    (CHAT, {"max_tokens": -1}),
    (CHAT, {"max_tokens": 1.5}),
    (CHAT, {"temperature": -1}),
    (CHAT, {"temperature": "hot"}),
    (CHAT, {"top_p": 1.5}),
    (CHAT, {"top_p": -0.1}),
    (CHAT, {"min_p": 2}),
    (CHAT, {"presence_penalty": 3}),
    (CHAT, {"frequency_penalty": -3}),
    (CHAT, {"repetition_penalty": 5e-324}),
    (CHAT, {"n": 0}),
    (CHAT, {"n": 10**9}),
    (CHAT, {"n": -1}),
    (CHAT, {"logprobs": True, "top_logprobs": 99}),
    (CHAT, {"stop": 5}),
    (CHAT, {"stop": ["x"] * 10_000}),
    (CHAT, {"logit_bias": {"x": 1}}),
    (CHAT, {"logit_bias": {"1": 1000}}),
    (CHAT, {"logit_bias": {"-1": 1}}),
    (CHAT, {"stream": "perhaps"}),
    (CHAT, {"response_format": {"type": "poem"}}),
    (CHAT, {"response_format": {"type": "json_schema"}}),
    (CHAT, {"tools": [{"type": "function"}]}),
    (CHAT, {"tools": "hammer"}),
    (CHAT, {"guided_regex": "("}),
    (CHAT, {"guided_grammar": "not a grammar"}),
    (CHAT, {"guided_choice": []}),
    (CHAT, {"guided_regex": "a" * 200_000}),
    schema({"type": "nonsense"}),
    schema({"$ref": "#/$defs/missing"}),
    schema({"type": "string", "pattern": "(?=x)a"}),
    (TEXT, {"prompt": [-1]}),
    (TEXT, {"prompt": [10**6]}),
    (TEXT, {"prompt": ["x", 1]}),
    (TEXT, {"prompt": []}),
    (TEXT, {"prompt": ["x"] * 100_000}),
    (TEXT, {"n": 10**6}),
    (TEXT, {"logprobs": 10**6}),
    (TEXT, {"best_of": "x"}),
    (EMBED, {"input": []}),
    (EMBED, {"input": [[-5]]}),
    (EMBED, {"input": 5}),
    (TOKENS, {"prompt": 5}),
]


@pytest.mark.parametrize(("path", "change"), WRONG, ids=lambda value: json.dumps(value)[:60])
def test_wrong_values_are_400_and_name_the_field(live, path, change):
    reply = send(live.url + path, BODIES[path] | change)
    assert reply.status == 400, reply.body
    error = error_of(reply)
    assert error["param"] or error["code"], error
    assert send(live.url + path, BODIES[path]).status == 200


@pytest.mark.parametrize(
    ("path", "change"),
    [
        schema(nested(25)),
        schema({"type": "array", "items": {"type": "integer"}, "maxItems": 10**9}),
        schema({"type": "string", "maxLength": 10**9}),
        schema({"type": "string", "pattern": "^(a+)+$"}),
        schema({"enum": [f"word {number}" for number in range(5000)]}),
        schema({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}}}),
        schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
        schema({"allOf": [{"properties": {f"p{number}": {"type": "integer"}}} for number in range(60)]}),
        schema(nested(58)),
        schema({"type": "string", "minLength": 10**6}),
        (CHAT, {"guided_regex": "(a{1,1000}){1,1000}"}),
        (CHAT, {"guided_regex": "(a+)+$"}),
        (CHAT, {"guided_regex": "(.*)*" * 50}),
        (CHAT, {"guided_regex": "(x+x+)+y" * 20}),
        (CHAT, {"guided_regex": "(a|aa|aaa)*" * 100 + "b"}),
        (CHAT, {"guided_regex": "[a-z]{1000}" * 20}),
        (CHAT, {"stop": ["\x00", "猫" * 1000]}),
        (CHAT, {"max_tokens": 10**12, "stop": ["a", "e", " "], "temperature": 0}),
        (CHAT, {"seed": -(2**63)}),
        (CHAT, {"user": "x" * 100_000}),
        (TEXT, {"prompt": ""}),
        (TEXT, {"prompt": "\x00\x07"}),
    ],
    ids=lambda value: json.dumps(value)[:70],
)
def test_what_could_take_for_ever_is_answered_or_refused_and_others_go_on(live, path, change):
    reply = send(live.url + path, BODIES[path] | change, timeout_s=60)
    assert reply.status in (200, 400), reply.body
    if reply.status == 400:
        error_of(reply)
    assert send(live.url + path, BODIES[path]).status == 200


@pytest.mark.parametrize("path", [CHAT, TEXT, EMBED])
def test_a_prompt_beyond_the_context_is_400(live, path):
    long = "a cat sat " * 5000
    change = {CHAT: {"messages": [{"role": "user", "content": long}]}, TEXT: {"prompt": long}, EMBED: {"input": long}}
    reply = send(live.url + path, BODIES[path] | change[path])
    assert reply.status == 400
    assert error_of(reply)["code"] == "context_length_exceeded"
    assert_works(live)


def test_unknown_names_are_404_and_wrong_methods_405(live):
    for path, body in BODIES.items():
        reply = send(live.url + path, body | {"model": "no/such\x1b[31m model"})
        assert reply.status == 404
        assert error_of(reply)["code"] == "model_not_found"
        assert b"\x1b" not in reply.body
        wrong = send(live.url + path, method="DELETE")
        assert wrong.status == 405
        error_of(wrong)
    assert error_of(send(live.url + "/v1/nowhere", {}))
    assert send(live.url + "/v1/nowhere", {}).status == 404
    assert send(live.url + "/v1/models/nobody").status == 404


def test_ten_megabytes_are_413(live):
    content = "x" * (10 << 20)
    reply = send(live.url + CHAT, BODIES[CHAT] | {"messages": [{"role": "user", "content": content}]})
    assert reply.status == 413
    error_of(reply)
    assert_works(live)


def test_what_a_page_of_another_origin_sends_is_refused(live):
    for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}):
        assert send(live.url + CHAT, BODIES[CHAT], headers=headers).status == 403
    assert send(live.url + CHAT, BODIES[CHAT], headers={"content-type": "text/plain"}).status == 415


def test_only_a_right_key_opens(folder, tmp_path):
    file = tmp_path / "keys.json"
    key = add_key(file, "ann", requests_per_minute=2)
    settings = ServeSettings(port=0, api_keys=file, drain_timeout_s=5)
    with running(ModelSource(id="kitten", folder=folder, instruction_tuned=True), settings=settings) as live:
        for headers in ({}, {"authorization": "Bearer dw-wrong"}, {"authorization": key}):
            reply = send(live.url + CHAT, BODIES[CHAT], headers=headers)
            assert reply.status == 401
            assert error_of(reply)["code"] == "invalid_api_key"
        assert send(live.url + "/health").status == 200
        assert send(live.url + "/metrics").status == 401
        right = {"authorization": f"Bearer {key}"}
        replies = [send(live.url + CHAT, BODIES[CHAT], headers=right) for _ in range(3)]
        assert [reply.status for reply in replies] == [200, 200, 429]
        assert int(replies[2].headers["retry-after"]) >= 1
        metrics = send(live.url + "/metrics", headers=right).body.decode()
        assert 'dunwu_refusals_total{reason="rate_limit_exceeded"} 1.0' in metrics


def metric(live, name):
    """The sum of a metric's samples."""
    lines = send(live.url + "/metrics").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition(" ")[0].partition("{")[0] == name)


@pytest.mark.parametrize("stream", [True, False])
def test_whoever_leaves_frees_the_blocks_that_the_answer_held(live, stream):
    wait_until(lambda: metric(live, "dunwu_engine_running") == 0, "it never came to rest")
    gone, written = metric(live, "dunwu_disconnects_total"), metric(live, "dunwu_engine_written_tokens_total")
    body = BODIES[CHAT] | {"max_tokens": 1900, "ignore_eos": True, "stream": stream}
    with start(live, CHAT, body):
        wait_until(lambda: metric(live, "dunwu_engine_written_tokens_total") > written + 3, "nothing was written")
        assert metric(live, "dunwu_engine_free_blocks") < metric(live, "dunwu_engine_blocks")
    wait_until(lambda: metric(live, "dunwu_engine_running") == 0, "it went on for nobody")
    assert metric(live, "dunwu_engine_free_blocks") == metric(live, "dunwu_engine_blocks")
    assert metric(live, "dunwu_engine_written_tokens_total") < written + 1900
    assert metric(live, "dunwu_disconnects_total") == gone + 1


def test_metrics_tell_what_was_read_and_written(live):
    names = ["dunwu_prompt_tokens_total", "dunwu_completion_tokens_total", "dunwu_time_to_first_token_seconds_count"]
    before = [metric(live, name) for name in names]
    reply = send(live.url + CHAT, BODIES[CHAT] | {"ignore_eos": True})
    usage = reply.json["usage"]
    after = [metric(live, name) for name in names]
    grown = [new - old for new, old in zip(after, before, strict=True)]
    assert grown == [usage["prompt_tokens"], usage["completion_tokens"], 1]


def test_more_tokens_than_are_worth_spelling_are_counted_and_not_spelled(live):
    body = {"model": "kitten", "prompt": "z" * 40_000}
    assert send(live.url + TOKENS, body).json["count"] >= 40_000
    reply = send(live.url + TOKENS, body | {"return_token_strs": True})
    assert reply.status == 400
    assert error_of(reply)["param"] == "return_token_strs"


def test_more_completions_than_one_request_may_ask_for_are_400_and_say_how_many(folder):
    settings = ServeSettings(port=0, drain_timeout_s=5, max_completions=4)
    with running(ModelSource(id="kitten", folder=folder, instruction_tuned=True), settings=settings) as live:
        for path in (CHAT, TEXT):
            error = error_of(send(live.url + path, BODIES[path] | {"n": 5}))
            assert error["param"] == "n"
            assert "n=5 is more than the 4 " in error["message"]
            assert len(send(live.url + path, BODIES[path] | {"n": 4}).json["choices"]) == 4


def test_metadata_is_as_small_as_openai_s(live):
    for wrong in ({str(number): "x" for number in range(17)}, {"x" * 65: "x"}, {"x": "x" * 513}, {"a.b": 5}):
        error = error_of(send(live.url + CHAT, BODIES[CHAT] | {"metadata": wrong}))
        assert error["param"].startswith("metadata")
        assert len(error["message"]) < 300
    assert send(live.url + CHAT, BODIES[CHAT] | {"metadata": {"x" * 64: "x" * 512}}).status == 200


def test_complaints_are_in_plain_words_and_short(live):
    empty = error_of(send(live.url + CHAT, b"", method="POST"))
    assert empty["message"] == "the body is empty; send the request as JSON"
    listed = error_of(send(live.url + TEXT, BODIES[TEXT] | {"prompt": [-1]}))
    assert "Input should" not in listed["message"]
    assert "at least 0" in listed["message"]
    long_name = error_of(send(live.url + CHAT, BODIES[CHAT] | {"logit_bias": {"x" * 10_000: "y"}}))
    long_regex = error_of(send(live.url + CHAT, BODIES[CHAT] | {"guided_regex": "(" + "a" * 10_000}))
    for error in (long_name, long_regex):
        assert len(error["message"]) + len(error["param"] or "") < 1000


def test_a_bias_for_what_is_no_token_is_400(live):
    error = error_of(send(live.url + CHAT, BODIES[CHAT] | {"logit_bias": {"1": 1, "99999999": 1}}))
    assert error["param"] == "logit_bias"
    assert "99999999" in error["message"]


def test_a_grammar_that_turns_out_too_large_while_writing_is_400(live):
    many = [{"type": "object", "properties": {f"p{number}": {"type": "string"}}} for number in range(200)]
    reply = send(live.url + CHAT, BODIES[CHAT] | {"guided_json": {"anyOf": many}, "max_tokens": 60})
    assert reply.status == 400, reply.body[:500]
    assert "simplify it" in error_of(reply)["message"]
