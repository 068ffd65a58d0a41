import asyncio
import json

import pytest

from dunwu.serve.keys import Keyring, add_key
from dunwu.serve.limits import Account, Bucket, Gate, Limits

from .guarded import Call, Echo


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_a_bucket_holds_a_minute_s_worth_and_fills_evenly():
    clock = Clock()
    bucket = Bucket(60, clock)
    bucket.take(60)
    assert bucket.seconds_until(1) == pytest.approx(1)
    clock.now += 1.5
    assert bucket.level == pytest.approx(1.5)
    clock.now += 1000
    assert bucket.level == 60


def test_an_overdrawn_key_waits_until_it_is_even():
    clock = Clock()
    account = Account(Limits(tokens_per_minute=600), clock)
    account.charge(1200)  # an answer turned out longer than what was left
    refusal = account.refusal()
    assert refusal.status == 429
    assert int(refusal.headers["Retry-After"]) == 61  # 600 tokens too many, and one to begin with
    clock.now += 60
    assert account.refusal() is not None
    clock.now += 1
    assert account.refusal() is None


def test_requests_a_minute_with_openai_s_headers():
    echo = Echo(limits=Limits(requests_per_minute=2))
    calls = [asyncio.run(Call("/echo", b'"x"').to(echo)) for _ in range(3)]
    assert [call.status for call in calls] == [200, 200, 429]
    assert [call.headers["x-ratelimit-remaining-requests"] for call in calls] == ["1", "0", "0"]
    assert calls[0].headers["x-ratelimit-limit-requests"] == "2"
    assert calls[2].error["code"] == "rate_limit_exceeded"
    assert calls[2].error["type"] == "rate_limit_error"
    assert 25 <= int(calls[2].headers["retry-after"]) <= 30
    assert asyncio.run(Call("/echo", method="GET").to(echo)).status == 200  # looking costs nothing


def test_tokens_a_minute_count_what_was_read_and_written():
    echo = Echo(limits=Limits(tokens_per_minute=10))
    first = asyncio.run(Call("/echo", b'"1234567"').to(echo))  # nine read, two written
    assert first.status == 200
    second = asyncio.run(Call("/echo", b'"x"').to(echo))
    assert second.status == 429
    assert second.headers["x-ratelimit-remaining-tokens"] == "0"


def test_each_key_has_limits_of_its_own(tmp_path):
    path = tmp_path / "keys.json"
    small, usual = add_key(path, "small", requests_per_minute=1), add_key(path, "usual")
    echo = Echo(keyring=Keyring(path), limits=Limits(requests_per_minute=3))

    def statuses(key, count):
        headers = {"authorization": f"Bearer {key}"}
        return [asyncio.run(Call("/echo", b"1", headers=headers).to(echo)).status for _ in range(count)]

    assert statuses(small, 2) == [200, 429]
    assert statuses(usual, 4) == [200, 200, 200, 429]


def test_requests_at_once_are_limited_and_their_places_come_back():
    async def run():
        echo = Echo(limits=Limits(concurrent_requests=2))
        held = [Call("/wait", b"{}") for _ in range(2)]
        tasks = [asyncio.create_task(call.to(echo)) for call in held]
        await asyncio.sleep(0.05)
        refused = await Call("/echo", b"1").to(echo)
        held[0].leave()
        await asyncio.wait_for(tasks[0], 5)
        taken = await Call("/echo", b"1").to(echo)
        echo.release.set()
        await asyncio.wait_for(tasks[1], 5)
        return refused, taken, held[1]

    refused, taken, finished = asyncio.run(run())
    assert (refused.status, taken.status, finished.status) == (429, 200, 200)
    assert "2 requests at a time" in refused.error["message"]


def test_a_full_queue_is_429_and_everything_else_still_answers():
    async def run():
        echo = Echo()
        echo.most_waiting = 2
        held = [Call("/wait", b"{}") for _ in range(2)]
        tasks = [asyncio.create_task(call.to(echo)) for call in held]
        await asyncio.sleep(0.05)
        refused = await Call("/wait", b"{}").to(echo)
        other = await Call("/echo", b"1").to(echo)
        echo.release.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
        again = await Call("/wait", b"{}").to(echo)
        return refused, other, held, again, (await Call("/metrics", method="GET").to(echo)).body.decode()

    refused, other, held, again, metrics = asyncio.run(run())
    assert refused.status == 429
    assert refused.error["code"] == "queue_full"
    assert int(refused.headers["retry-after"]) >= 1
    assert other.status == 200
    assert [call.status for call in held] == [200, 200]
    assert again.status == 200
    assert 'dunwu_refusals_total{reason="queue_full"} 1.0' in metrics


def test_when_to_come_back_follows_from_the_pace():
    clock = Clock()
    gate = Gate(lambda: True, lambda: 100, clock)
    assert gate.retry_after_s() == 5  # nothing is known yet
    for _ in range(40):
        clock.now += 0.5  # two a second
        gate.leave()
    assert 20 <= gate.retry_after_s() <= 26
    assert f"in {gate.retry_after_s()} s" in gate.refusal().message
    clock.now += 1000  # nothing for a long time
    assert gate.retry_after_s() == 5


def test_limits_changed_in_the_file_hold_at_once(tmp_path):
    path = tmp_path / "keys.json"
    key = add_key(path, "ann", requests_per_minute=1)
    echo = Echo(keyring=Keyring(path))
    headers = {"authorization": f"Bearer {key}"}
    assert asyncio.run(Call("/echo", b"1", headers=headers).to(echo)).status == 200
    assert asyncio.run(Call("/echo", b"1", headers=headers).to(echo)).status == 429
    facts = json.loads(path.read_text())
    facts["keys"][0]["requests_per_minute"] = 1000
    path.write_text(json.dumps(facts))
    assert asyncio.run(Call("/echo", b"1", headers=headers).to(echo)).status == 200
