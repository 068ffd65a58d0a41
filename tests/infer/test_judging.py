"""Likelihoods of texts that share beginnings are those of the plain forward pass, one text at a time."""

import random

import numpy as np
import pytest
import torch

from dunwu.core.deltas import LoraSpec, PrefixSpec, PromptSpec
from dunwu.delta.registry import attach
from dunwu.infer import judging
from dunwu.infer.forest import Row
from dunwu.infer.judging import Judge
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import Decoder
from dunwu.model.native.library import SWITCH
from tests.delta.helpers import shake
from tests.infer.test_paged import ALL
from tests.model.helpers import TINY
from tests.model.test_families import strong


@pytest.fixture(params=ALL.values(), ids=list(ALL))
def config(request: pytest.FixtureRequest) -> DecoderConfig:
    return request.param


def texts(vocab_size: int, context: int) -> list[Row]:
    """Questions after two headers, with branches of several lengths, and texts that share nothing; each judged from somewhere."""
    draw = random.Random(0)
    make = lambda count: [draw.randrange(vocab_size) for _ in range(count)]  # noqa: E731
    rows = []
    for header in (make(context // 3), make(context // 3)):
        for _ in range(3):
            question = header + make(draw.randrange(1, 5))
            first = draw.randrange(len(header), len(question) + 1)
            rows += [Row(np.array(question + make(size), np.int32), first) for size in (1, 1, 3)]
    rows += [Row(np.array(make(context + 1), np.int32), 1), Row(np.array(make(2), np.int32), 1)]
    draw.shuffle(rows)
    return rows


@torch.inference_mode()
def plainly(model: Decoder, row: Row) -> tuple[float, bool]:
    ids = torch.from_numpy(row.ids).long()
    logprobs = model.logits(model(ids[None, :-1]))[0].log_softmax(-1)[row.first - 1 :]
    judged = ids[row.first :]
    return logprobs.gather(1, judged[:, None]).double().sum().item(), bool((logprobs.argmax(-1) == judged).all())


def assert_judged_as_plainly(model: Decoder, rows: list[Row], judge: Judge) -> None:
    for (logprob, greedy), row in zip(judge(rows), rows, strict=True):
        wanted = plainly(model, row)
        assert logprob == pytest.approx(wanted[0], abs=1e-4 * max(1, len(row.ids) - row.first))
        assert greedy == wanted[1]


@pytest.mark.parametrize("kernels", ["on", "off"])
def test_every_architecture_judges_as_the_plain_pass_does(config, kernels, monkeypatch):
    monkeypatch.setenv(SWITCH, kernels)
    model = strong(config).eval()
    rows = texts(config.vocab_size, min(24, config.max_position_embeddings))
    assert_judged_as_plainly(model, rows, Judge(model, pass_tokens=11))
    assert_judged_as_plainly(model, rows, Judge(model))


def test_beginnings_are_read_once_and_order_does_not_matter():
    model = strong(ALL["llama"] if "llama" in ALL else next(iter(ALL.values()))).eval()
    rows = texts(model.config.vocab_size, 24)
    judge = Judge(model, pass_tokens=7)
    straight = judge(rows)
    assert judge.read_tokens == len({tuple(row.ids[:end]) for row in rows for end in range(1, len(row.ids))})
    backwards = judge(rows[::-1])[::-1]
    assert [one.greedy for one in straight] == [one.greedy for one in backwards]
    assert [one.logprob for one in straight] == pytest.approx([one.logprob for one in backwards], abs=1e-5)


@pytest.mark.parametrize("spec", [PrefixSpec(length=3, start="random"), PromptSpec(length=2), LoraSpec(r=2)])
def test_a_delta_judges_too(spec):
    model = strong(TINY).eval()
    rows = texts(model.config.vocab_size, 24)
    before = Judge(model)(rows)
    shake(attach(model, spec, seed=1), size=0.5)
    assert_judged_as_plainly(model, rows, Judge(model, pass_tokens=11))
    assert Judge(model)(rows) != before


def test_logits_exist_for_few_places_at_a_time(monkeypatch):
    model = strong(next(iter(ALL.values()))).eval()
    most = []
    logits = model.logits
    monkeypatch.setattr(model, "logits", lambda hidden: most.append(len(hidden)) or logits(hidden))
    monkeypatch.setattr(judging, "LOGITS_BYTES", 4 * model.config.vocab_size * 3)
    rows = texts(model.config.vocab_size, 24)
    judged = Judge(model)(rows)
    assert max(most) == 3
    monkeypatch.undo()
    at_once = Judge(model)(rows)
    assert [one.logprob for one in judged] == pytest.approx([one.logprob for one in at_once], abs=1e-4)
    assert [one.greedy for one in judged] == [one.greedy for one in at_once]


def test_what_is_likeliest_is_told():
    model = strong(next(iter(ALL.values()))).eval()
    start = torch.tensor([[5, 3]])
    best = int(model.logits(model(start))[0, -1].argmax())
    right, wrong = (Row(np.array([5, 3, last], np.int32), 2) for last in (best, (best + 1) % model.config.vocab_size))
    assert [one.greedy for one in Judge(model)([right, wrong])] == [True, False]


def test_nothing_to_judge():
    assert Judge(strong(next(iter(ALL.values()))))([]) == []
