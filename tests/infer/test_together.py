"""Decoding as one batch, recorded as graphs where there is a GPU, gives what the plain forward pass gives."""

import pytest
import torch

from dunwu.infer.paged import PagedCache
from dunwu.infer.runner import Runner
from dunwu.infer.together import Together, padded_blocks, padded_rows
from dunwu.model.config import DecoderConfig
from tests.model.test_families import strong

from .test_paged import ALL, SIZE, Loop, new_sequence, some_ids

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")),
]


@pytest.fixture(params=ALL.values(), ids=list(ALL))
def config(request: pytest.FixtureRequest) -> DecoderConfig:
    return request.param


class Counted(Together):
    """How many passes were batches."""

    batches = 0

    def run(self, parts):
        self.batches += 1
        return super().run(parts)


@pytest.fixture(autouse=True)
def exact():
    """Products of float32 keep their precision."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def together(runner: Runner) -> Counted:
    found = Counted(runner.model, runner.cache)
    for store in (*runner.cache.keys, *runner.cache.values, *runner.cache.key_scales, *runner.cache.value_scales):
        store.zero_()  # as it begins on a GPU: what was never written is gathered too, and counts nothing unless it is NaN
    runner._together = found
    return found


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_equals_the_plain_forward(config, device):
    loop = Loop(strong(config).requires_grad_(False), blocks=24, sequences=5, budget=40, device=device)
    batch = together(loop.runner)
    beginning = some_ids(9, 0)
    for length, room in ((1, 4), (2, 9), (11, 6), (5, 9), (7, 9)):
        loop.scheduler.add(new_sequence(beginning + some_ids(length, length), room))
    loop.finish()
    assert loop.checked == 4 + 9 + 6 + 9 + 9
    assert batch.batches >= 6


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_an_int8_cache_gives_what_it_gives_text_by_text(name, device):
    model = strong(ALL[name]).requires_grad_(False).to(device)

    def hidden(batched: bool) -> torch.Tensor:
        runner = Runner(model, PagedCache(model.config, 24, SIZE, device, torch.float32, "int8"))
        runner._kernels = None
        batch = together(runner) if batched else None
        runner._together = batch
        loop = Loop(model, blocks=24, sequences=5, budget=40, device=device)
        loop.runner = runner
        texts = [new_sequence(some_ids(length, length), 3) for length in (3, 9, 6)]
        for text in texts:
            loop.scheduler.add(text)
        rows = []
        for step in range(3):
            plan = loop.scheduler.plan()
            rows.append(runner.run(plan.work))
            loop.scheduler.commit(plan)
            for number, text in enumerate(texts):
                text.ids.append((7 * number + step) % 50)
        assert batch is None or batch.batches == 2
        return torch.cat(rows[1:])

    torch.testing.assert_close(hidden(True), hidden(False), atol=1e-4, rtol=1e-4)


def test_what_cannot_be_recorded_is_run_as_it_is(monkeypatch, caplog):
    loop = Loop(strong(ALL["llama"]).requires_grad_(False), blocks=24, sequences=3, budget=40)
    batch = together(loop.runner)
    batch._records = True

    def fail(*given):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore of it")

    monkeypatch.setattr("dunwu.infer.together.Recorded", fail)
    for length in (3, 9, 6):
        loop.scheduler.add(new_sequence(some_ids(length, length), 4))
    loop.finish()
    assert loop.checked == 3 * 4
    assert [record.getMessage().splitlines() for record in caplog.records] == [
        [
            "decoding goes on without recorded graphs, slower: CUDA error: operation not permitted when stream is capturing"
        ]
    ]


def test_few_shapes():
    assert [padded_rows(rows) for rows in (1, 2, 3, 5, 8, 9, 16, 33)] == [1, 2, 4, 8, 8, 16, 16, 40]
    assert [padded_blocks(blocks, 16) for blocks in (1, 8, 9, 16, 17, 64)] == [8, 8, 16, 16, 32, 64]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["llama", "gemma2", "deepseek_v3"])
def test_those_that_write_are_a_batch_while_others_are_read(name, device):
    loop = Loop(strong(ALL[name]).requires_grad_(False), blocks=40, sequences=6, budget=9, device=device)
    batch = together(loop.runner)
    mixed = 0
    for number in range(6):
        loop.scheduler.add(new_sequence(some_ids(5 + 6 * number, number), 8))
        before = batch.batches
        loop.step()
        mixed += batch.batches - before
    loop.finish()
    assert loop.checked == 6 * 8
    assert mixed >= 4
