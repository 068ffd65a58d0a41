import asyncio
import json

import pytest

from dunwu.serve.body import json_problem

from .guarded import Call, Echo


def ask(echo, *arguments, **facts):
    return asyncio.run(Call(*arguments, **facts).to(echo))


def test_a_body_comes_whole_however_it_was_cut():
    call = ask(Echo(), "/echo", [b'{"a":', b"", b" 1", b"}"])
    assert call.status == 200
    assert json.loads(call.body)["body"] == '{"a": 1}'


def test_a_body_too_large_is_413_though_no_length_was_given():
    parts = [b"x" * 600] * 3
    call = ask(Echo(most_body_bytes=1000), "/echo", parts)
    assert call.status == 413
    assert call.error["code"] == "request_too_large"
    assert call.headers["connection"] == "close"
    assert ask(Echo(most_body_bytes=1800), "/health", parts, method="GET").status == 200


def test_a_body_that_never_ends_is_given_up():
    call = Call("/echo", [b"x" * 600] * 1000, hangs=True)
    asyncio.run(call.to(Echo(most_body_bytes=1000)))
    assert call.status == 413
    assert call.taken < 20


def test_whoever_asks_before_sending_too_much_is_told_at_once():
    call = ask(Echo(), "/echo", [b"x"], headers={"content-length": str(10**9), "expect": "100-continue"})
    assert call.status == 413
    assert call.taken == 0


def test_a_body_that_stops_half_way_is_408():
    call = ask(Echo(body_timeout_s=0.05), "/echo", [b'{"a"'], hangs=True)
    assert call.status == 408
    assert call.error["code"] == "request_timeout"


def test_whoever_leaves_half_way_gets_nothing():
    async def run():
        call = Call("/echo", [b'{"a"'], hangs=True)
        call.leave()
        return await call.to(Echo())

    assert asyncio.run(run()).status == 0


@pytest.mark.parametrize(
    "kind", ["text/plain", "", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"]
)
def test_what_a_form_of_any_page_can_send_is_415(kind):
    assert ask(Echo(), "/echo", b"{}", headers={"content-type": kind}).status == 415


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/problem+json"])
def test_json_by_any_of_its_names_is_taken(kind):
    assert ask(Echo(), "/echo", b"{}", headers={"content-type": kind}).status == 200


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b'{"a": "\xff"}', "UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "UTF-8"),
        (b"[" * 65 + b"]" * 65, "65 deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "100000 deep"),
        (b"[" * 1_000_000, "deep"),
        (b'{"temperature": NaN}', "NaN"),
        (b'{"temperature": -Infinity}', "Infinity"),
        (b'{"a": ["\\ud83d"]}', "half"),
        (b'{"\\uDE00\\uD83D": 1}', "half"),
    ],
)
def test_dangerous_json_is_400(body, word):
    call = ask(Echo(), "/echo", body)
    assert call.status == 400
    assert word in call.error["message"]


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"text": "[" * 1000 + 'NaN \\ " Infinity'}).encode(),
        json.dumps([[]] * 1000).encode(),
        json.dumps({"a": "\\", "b": ["猫" * 100] * 70}).encode(),
        b"[" * 64 + b"]" * 64,
        json.dumps("😀 \\ud83d").encode(),
        b'{"\\uD83D\\uDE00": "\\ud83d',  # cut short: for whoever reads it
    ],
)
def test_what_only_looks_dangerous_passes(body):
    assert json_problem(body) is None


@pytest.mark.parametrize("part", [b'"\\' * 1_000_000, b'"' + b"\\" * 2_000_000, b"[]" * 1_000_000, b'["' * 1_000_000])
def test_megabytes_of_quotes_and_brackets_are_looked_through(part):
    assert "NaN" in (json_problem(b"NaN" + part) or "")


def test_work_ends_when_its_caller_leaves():
    async def run(path):
        echo, call = Echo(), Call(path, b"{}")
        task = asyncio.create_task(call.to(echo))
        await asyncio.sleep(0.05)
        call.leave()
        await asyncio.wait_for(task, 5)
        return echo, call

    for path, status in (("/wait", 0), ("/stream", 200)):
        echo, call = asyncio.run(run(path))
        assert call.status == status
        assert len(echo.cancelled) == 1
        assert b"DONE" not in call.body
        (line,) = echo.logged()
        assert (line["status"], line["disconnected"]) == (499, True) if path == "/wait" else line["disconnected"]


def test_an_answer_that_takes_too_long_ends_with_an_error_that_its_reader_understands():
    call = ask(Echo(request_timeout_s=0.05), "/wait", b"{}")
    assert call.status == 504
    assert call.error["code"] == "timeout"
    assert call.headers["x-should-retry"] == "false"
    stream = ask(Echo(request_timeout_s=0.05), "/stream", b"{}")
    assert stream.status == 200
    first, last = stream.body.decode().strip().split("\n\n")
    assert first == "data: one"
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"


def test_an_answer_in_time_is_left_alone():
    async def run(path):
        echo, call = Echo(), Call(path, b"{}")
        task = asyncio.create_task(call.to(echo))
        await asyncio.sleep(0.02)
        echo.release.set()
        return await asyncio.wait_for(task, 5), echo

    call, echo = asyncio.run(run("/stream"))
    assert call.body.endswith(b"data: [DONE]\n\n")
    assert not echo.cancelled
    assert json.loads(asyncio.run(run("/wait"))[0].body) == {"done": True}
