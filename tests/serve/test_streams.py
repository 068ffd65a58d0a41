"""Events of several requests as one stream."""

import asyncio
import io
import json
import logging

import pytest

from dunwu.serve.logs import Log
from dunwu.serve.streams import Asked
from dunwu.serve.visit import Visit


class Stream:
    """Nothing ever comes; or a fault."""

    def __init__(self, fault=None):
        self.fault = fault

    async def __aiter__(self):
        if self.fault:
            raise self.fault
        await asyncio.Event().wait()
        yield

    async def aclose(self):
        pass


def test_a_fault_in_one_of_several_streams_ends_them_all():
    async def run():
        visit = Visit(id="a", method="POST", path="/", client="")
        async for _ in Asked([Stream(), Stream(ValueError("torn"))], visit):  # pyright: ignore[reportArgumentType]
            pytest.fail("nothing came")

    with pytest.raises(ValueError, match="torn"):
        asyncio.run(asyncio.wait_for(run(), 10))


def test_what_asyncio_logs_quotes_nothing():
    async def fails():
        raise ValueError("my secret prompt")

    async def run():
        task = asyncio.ensure_future(fails())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(int, "my secret prompt")
        await asyncio.sleep(0)
        del task

    lines = io.StringIO()
    log = Log(lines)
    own = logging.getLogger("asyncio")
    before = (own.handlers, own.propagate, own.level)
    log.take_over("asyncio")
    try:
        asyncio.run(run())
    finally:
        own.handlers, own.propagate = before[0], before[1]
        own.setLevel(before[2])
        log.close()
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [one["message"] for one in told] == ["Exception in callback int", "Task exception was never retrieved"]
    assert all("secret" not in line for line in lines.getvalue().splitlines())
    assert told[1]["fault"].startswith("ValueError < ")
