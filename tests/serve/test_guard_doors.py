import asyncio
import dataclasses
import json

import pytest

from dunwu.infer.texts import EngineStats
from dunwu.serve.metrics import Metrics

from .guarded import Call, Echo


def ask(echo, path="/echo", body=b"1", **facts):
    return asyncio.run(Call(path, body, **facts).to(echo))


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:80", "[0:0:0::1]"]
)
def test_a_server_on_loopback_answers_to_its_own_names(host):
    assert ask(Echo(), headers={"host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example:8000", "127.0.0.1.nip.io", "", "[::1", "127.0.0.1@evil", "evil#localhost"],
)
def test_under_another_name_it_refuses(host):
    call = ask(Echo(), headers={"host": host})
    assert call.status == 403
    assert call.error["code"] == "host_not_allowed"
    assert call.taken == 0


def test_a_caller_too_old_to_name_the_host_is_no_browser():
    call = Call("/echo", b"1")
    call.scope["headers"] = [one for one in call.scope["headers"] if one[0] != b"host"]
    assert asyncio.run(call.to(Echo())).status == 200
    call = Call("/echo", b"1", headers={"origin": "https://evil.example"})
    call.scope["headers"] = [one for one in call.scope["headers"] if one[0] != b"host"]
    assert asyncio.run(call.to(Echo())).status == 403


def test_names_can_be_allowed():
    assert ask(Echo(hosts=("box.lan",)), headers={"host": "box.lan:9"}).status == 200
    assert ask(Echo(hosts=None), headers={"host": "anything"}).status == 200


def test_pages_of_other_origins_are_refused_unless_allowed():
    evil, own = {"origin": "https://evil.example"}, {"origin": "http://localhost:8000"}
    assert ask(Echo(), headers=evil).error["code"] == "origin_not_allowed"
    assert ask(Echo(), headers={"origin": "null"}).status == 403
    assert ask(Echo(), headers={"origin": "http://localhost:1"}).status == 403
    assert ask(Echo(), headers=own).status == 200
    allowed = ask(Echo(origins=("https://evil.example",)), headers=evil)
    assert allowed.status == 200
    assert allowed.headers["access-control-allow-origin"] == "https://evil.example"
    assert "access-control-allow-origin" not in ask(Echo(origins=("https://evil.example",))).headers


def test_a_browser_may_ask_first_where_the_origin_is_allowed():
    headers = {
        "origin": "https://a.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
    }
    allowed = ask(Echo(origins=("https://a.example/",)), body=b"", method="OPTIONS", headers=headers)
    assert allowed.status == 200
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    assert ask(Echo(), body=b"", method="OPTIONS", headers=headers).status == 403


def test_every_answer_carries_headers_that_keep_it_harmless():
    for call in (ask(Echo()), ask(Echo(), "/nowhere"), ask(Echo(), headers={"host": "evil"}), ask(Echo(), "/broken")):
        assert call.headers["x-content-type-options"] == "nosniff"
        assert call.headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in call.headers["content-security-policy"]


def test_a_sane_request_id_is_kept_and_another_is_made():
    given = ask(Echo(), headers={"x-request-id": "trace-1.2:3"})
    assert given.headers["x-request-id"] == "trace-1.2:3"
    made = {
        ask(Echo(), headers={"x-request-id": bad}).headers["x-request-id"] for bad in ("", "a b", "x" * 129, "a\tb")
    }
    assert len(made) == 4
    assert all(one.startswith("req-") for one in made)


def test_a_mistake_of_ours_is_a_500_that_does_not_tell_what_was_asked():
    echo = Echo()
    call = ask(echo, "/broken", b'"my secret prompt"')
    assert call.status == 500
    assert call.error["type"] == "server_error"
    assert b"secret" not in call.body
    (line,) = echo.logged()
    assert line["level"] == "error"
    assert line["id"] in call.error["message"]
    assert "ValueError" in line["fault"]
    assert "_broken" in line["fault"]
    assert "secret" not in json.dumps(line)


def test_half_an_answer_closes_the_connection_without_telling_why():
    with pytest.raises(ConnectionAbortedError) as caught:
        ask(Echo(), "/half")
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_prompts_are_logged_only_on_demand():
    for wanted in (False, True):
        echo = Echo(log_prompts=wanted)
        ask(echo, body=b'"my secret prompt"')
        (line,) = echo.logged()
        assert ("secret" in json.dumps(line)) is wanted
        assert (line["method"], line["path"], line["status"]) == ("POST", "/echo", 200)
        assert line["prompt_tokens"] == 18
        assert line["completion_tokens"] == 2


def test_a_line_of_the_log_is_one_line_whatever_the_path():
    echo = Echo()
    ask(echo, '/a\n{"level": "fake"}\x1b[31m' + "x" * 5000)
    (line,) = echo.logged()
    assert "\x1b" not in echo.lines.getvalue()
    assert len(line["path"]) == 200


def test_metrics_count_by_route_and_unknown_paths_are_one():
    echo = Echo()
    for path in ("/echo", "/a", "/b", "/c/d"):
        ask(echo, path)
    ask(echo, method="BREW")
    text = ask(echo, "/metrics", b"", method="GET").body.decode()
    assert 'dunwu_requests_total{method="POST",route="/echo",status="200"} 1.0' in text
    assert 'dunwu_requests_total{method="POST",route="other",status="404"} 3.0' in text
    assert 'method="other"' in text
    assert "BREW" not in text
    assert "dunwu_prompt_tokens_total 1.0" in text
    assert "dunwu_completion_tokens_total 2.0" in text
    assert "dunwu_requests_in_flight 1.0" in text  # the one that asks
    assert "process_resident_memory_bytes" in text


def test_metrics_say_what_they_count_and_no_birthdays():
    metrics = Metrics()
    numbers = {one.name: 3 for one in dataclasses.fields(EngineStats) if one.name != "finished"}
    text = metrics.text(EngineStats(**numbers, finished={"stop": 3})).decode()
    assert "_created" not in text
    helps = [line.split(" ", 3)[3] for line in text.splitlines() if line.startswith("# HELP dunwu_")]
    assert all(one[0].isupper() and one.endswith(".") for one in helps)
    for name in numbers:  # each count of the engine is told
        assert f"\ndunwu_engine_{name} 3.0" in text or f"\ndunwu_engine_{name}_total 3.0" in text
