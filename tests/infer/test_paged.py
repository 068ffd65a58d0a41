"""Whatever the order in which tokens come into the blocks, each text's logits are those of the plain forward pass."""

import random
from dataclasses import replace
from itertools import count

import pytest
import torch

from dunwu.core.errors import ModelError
from dunwu.delta.quantise import quantise
from dunwu.infer import fewrows
from dunwu.infer.blocks import BlockManager, Table
from dunwu.infer.paged import PagedCache
from dunwu.infer.runner import Runner, lay_out_for_few_rows
from dunwu.infer.sampling import SamplingParams
from dunwu.infer.scheduler import Scheduler, Work
from dunwu.infer.sequence import Request, Sequence
from dunwu.model.cache import KeyValueCache, Span
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import Decoder
from dunwu.model.hub import load_model, save_model
from dunwu.model.native.library import SWITCH, native
from tests.model.helpers import TINY
from tests.model.test_families import CONFIGS, strong
from tests.model.test_mixtures import LATENT, VARIANTS

SIZE = 4
ALL = {
    **CONFIGS,
    **VARIANTS,
    "latent, values wider than keys": replace(TINY, head_dim=10, latent=replace(LATENT, q_rank=None, value_dim=14)),
    "longrope's border at 14": replace(
        CONFIGS["phi3"], rope_scaling=replace(CONFIGS["phi3"].rope_scaling, original_max_position_embeddings=14)
    ),
}
_numbers = count()


@pytest.fixture(params=ALL.values(), ids=list(ALL))
def config(request: pytest.FixtureRequest) -> DecoderConfig:
    return request.param


def new_sequence(prompt: list[int], room: int) -> Sequence:
    request = Request(id=str(next(_numbers)), prompt_ids=tuple(prompt), params=SamplingParams())
    return Sequence(request, 0, list(prompt), room, "length")


class Loop:
    """The engine's heart without its surroundings: greedy, and each choice held against the plain forward pass."""

    def __init__(self, model: Decoder, *, blocks: int, sequences: int, budget: int, device: str = "cpu") -> None:
        scaling = model.config.rope_scaling
        border = scaling.original_max_position_embeddings if scaling and scaling.kind == "longrope" else None
        self.model = model.to(device)
        self.device = device
        self.scheduler = Scheduler(
            BlockManager(blocks, SIZE), max_sequences=sequences, token_budget=budget, border=border
        )
        self.runner = Runner(model, PagedCache(model.config, blocks, SIZE, device, torch.float32))
        self.checked = 0

    def step(self) -> None:
        plan = self.scheduler.plan()
        hidden_ND = self.runner.run(plan.work)
        self.scheduler.commit(plan)
        row = -1
        for work in plan.work:
            row += work.count
            if work.reaches_the_end:
                self.take(work.sequence, self.runner.logits(hidden_ND[row]))

    @torch.inference_mode()
    def take(self, sequence: Sequence, logits_V: torch.Tensor) -> None:
        plain_V = self.model.logits(self.model(torch.tensor([sequence.ids], device=self.device))[0, -1])
        torch.testing.assert_close(logits_V, plain_V, atol=1e-4, rtol=1e-4)
        self.checked += 1
        sequence.ids.append(int(plain_V.argmax()))
        sequence.room -= 1
        if sequence.room == 0:
            self.scheduler.finish(sequence)

    def finish(self) -> None:
        while self.scheduler.waiting or self.scheduler.running:
            self.step()


def some_ids(length: int, seed: int) -> list[int]:
    return torch.randint(0, 50, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def test_chunked_batched_shared_and_preempted_equal_the_plain_forward(config):
    beginning = some_ids(9, 0)
    loop = Loop(strong(config).requires_grad_(False), blocks=10, sequences=5, budget=7)
    texts = [new_sequence(beginning + some_ids(length, length), 9) for length in (1, 2, 11, 5)]
    texts.append(new_sequence(some_ids(3, 77), 12))
    for number, text in enumerate(texts):
        loop.scheduler.add(text)
        if number % 2:
            loop.step()
    loop.finish()
    assert loop.checked == 4 * 9 + 12
    assert loop.scheduler.preemptions > 0
    assert sum(text.cached_tokens or 0 for text in texts) >= 8
    assert loop.scheduler.blocks.free == 10


@pytest.mark.parametrize("name", ["llama", "gemma2", "deepseek_v3"])
def test_forks_go_their_own_ways(name):
    loop = Loop(strong(ALL[name]).requires_grad_(False), blocks=20, sequences=3, budget=16)
    parent = new_sequence(some_ids(10, 1), 8)
    loop.scheduler.add(parent)
    loop.step()
    children = [new_sequence(parent.ids[:-1], 8) for _ in range(2)]
    parent.computed = 10
    loop.scheduler.fork(parent, children)
    for number, child in enumerate(children):
        child.ids.append(number)  # not what the parent wrote
    loop.finish()
    assert len({tuple(one.ids) for one in (parent, *children)}) == 3
    assert loop.checked == 8 + 2 * 8
    assert loop.scheduler.blocks.free == 20


def test_a_text_in_many_pieces_equals_one_in_one_piece():
    """More pieces than are worth a product each, whole and behind a window."""
    for name in ("gemma2", "mistral", "deepseek_v3"):
        model = strong(ALL[name]).requires_grad_(False)
        ids, outcomes = some_ids(40, 2), []
        for blocks in ([5, 4, 3, 2, 1, 0, 11, 10, 9, 8], list(range(2, 12))):
            cache = PagedCache(model.config, 12, SIZE, "cpu", torch.float32)
            rows = []
            for start, end in ((0, 30), (30, 38), (38, 39), (39, 40)):
                cache.begin([Span(0, start, end - start, cache.runs(blocks, end))])
                with torch.inference_mode():
                    hidden = model(torch.tensor([ids[start:end]]), positions_BT=cache.positions(1, "cpu"), cache=cache)
                rows.append(hidden)
            outcomes.append(torch.cat(rows, dim=1))
        torch.testing.assert_close(outcomes[0], outcomes[1], atol=1e-5, rtol=1e-5)
        assert len(PagedCache(model.config, 12, SIZE, "cpu", torch.float32).runs([5, 4, 3, 8, 9], 18)) == 4


@pytest.mark.parametrize("name", ["llama", "gemma2"])  # a head of its own, and a tied one
def test_the_layout_for_few_rows_changes_no_value(name, tmp_path):
    model, laid = strong(CONFIGS[name]), strong(CONFIGS[name])
    with torch.inference_mode():
        lay_out_for_few_rows(laid)
    for weight in (laid.model.layers[0].mlp.up_proj.weight, laid.head_weight):
        assert weight.stride() == (1, weight.shape[0])
        assert not weight.is_inference()
    for (name, before), after in zip(model.state_dict().items(), laid.state_dict().values(), strict=True):
        assert torch.equal(before, after), name
    ids = torch.tensor([some_ids(20, 5)])
    with torch.inference_mode():
        torch.testing.assert_close(model.logits(model(ids)), laid.logits(laid(ids)), atol=1e-4, rtol=1e-4)
    save_model(laid, tmp_path)
    for (name, before), after in zip(
        model.state_dict().items(), load_model(tmp_path).state_dict().values(), strict=True
    ):
        assert torch.equal(before, after), name


@pytest.mark.skipif(native() is None, reason="no C compiler on this machine")
@pytest.mark.parametrize("weights", ["float", "int8", "int4"])
@pytest.mark.parametrize("kind", ["float", "int8"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral", "glm4", "olmo2"])
def test_a_token_is_read_alike_bit_for_bit_whatever_is_beside_it(name, kind, weights, monkeypatch):
    config = replace(ALL[name], max_position_embeddings=256, intermediate_size=704, head_dim=72)
    model = quantise(strong(config).requires_grad_(False), weights)
    length, runner = 150, Runner(model, PagedCache(config, 200, SIZE, "cpu", torch.float32, kind))
    own, other = new_sequence(some_ids(length, 1), 1), new_sequence(some_ids(length, 2), 1)
    scattered = random.Random(3).sample(range(100, 200), 40)
    own.table, other.table = Table(None, list(range(38))), Table(None, list(range(50, 88)))
    whole_ND = runner.run([Work(own, 0, length, [])])
    own.table = Table(None, scattered)
    monkeypatch.setattr(fewrows, "MOST_ROWS", 60)  # the longest piece takes two passes
    pieces, done = [], 0
    for size, beside in ((1, 0), (2, 3), (13, 1), (1, 7), (63, 0), (5, 40), (1, 20), (62, 5), (1, 2), (1, 0)):
        works = [Work(own, done, size, [])]
        if beside:
            works.insert(0, Work(other, done, beside, []))
        pieces.append(runner.run(works)[beside:])
        done += size
    assert done == length
    assert (torch.cat(pieces) != whole_ND).any(1).nonzero().tolist() == []
    assert torch.equal(torch.cat([runner.logits(row_D[None]) for row_D in whole_ND[:9]]), runner.logits(whole_ND)[:9])


@pytest.mark.skipif(native() is None, reason="no C compiler on this machine")
def test_weights_that_move_are_read_where_they_lie_when_a_text_begins():
    model, ids = strong(TINY).requires_grad_(False), [5, 6, 7, 8]
    runner = Runner(model, PagedCache(TINY, 8, SIZE, "cpu", torch.float32))
    sequence = new_sequence(ids, 1)
    sequence.table = Table(None, [0, 1])

    def plain() -> torch.Tensor:
        with torch.inference_mode():
            return model(torch.tensor([ids]))[0]

    before = plain()
    runner.run([Work(sequence, 0, 3, [])])
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    torch.testing.assert_close(runner.run([Work(sequence, 3, 1, [])]), before[3:], atol=1e-4, rtol=1e-4)
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.5
    torch.testing.assert_close(runner.run([Work(sequence, 0, 4, [])]), plain(), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain(), before, atol=1e-2)


def rounded(x: torch.Tensor) -> torch.Tensor:
    """What an 8-bit cache keeps of keys or values `[B, K, T, C]`."""
    scales = x.abs().amax(-1, keepdim=True) / 127
    return (x / scales.clamp(min=1e-30)).round() * scales


@pytest.mark.parametrize("switch", ["on", "off"])
@pytest.mark.parametrize("prompt", [3, 80], ids=["short", "long"])
def test_an_int8_cache_attends_to_rounded_keys_and_values(config, monkeypatch, switch, prompt):
    if config.latent is not None:
        with pytest.raises(ModelError, match="latent"):
            PagedCache(config, 4, SIZE, "cpu", torch.float32, "int8")
        return
    monkeypatch.setenv(SWITCH, switch)
    model = strong(config).requires_grad_(False)
    prompt = min(prompt, config.max_position_embeddings - 2)
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, config.vocab_size, (prompt + 2,), generator=generator).tolist()
    cache = PagedCache(config, 2 + -(-prompt // SIZE), SIZE, "cpu", torch.float32, "int8")
    runner = Runner(model, cache)
    monkeypatch.setattr(KeyValueCache, "append", _rounding_append(KeyValueCache.append))
    plain = KeyValueCache(config, 1, prompt + 2, "cpu", torch.float32)
    manager = BlockManager(2 + -(-prompt // SIZE), SIZE)
    sequence = new_sequence(ids, 1)
    sequence.table = manager.open(ids, None)
    # One token after another where the prompt is short: a whole prompt of an 8-bit cache may be read before it is rounded.
    parts = [1] * (prompt + 2) if prompt == 3 else [prompt, 1, 1]
    done = 0
    for size in parts:
        manager.reserve(sequence.table, done, done + size)
        with torch.inference_mode():
            hidden = runner.run([Work(sequence, done, size, [])])
            expected = model(torch.tensor([ids[done : done + size]]), cache=plain)[0]
        torch.testing.assert_close(hidden[-1], expected[-1], atol=2e-2, rtol=2e-2)
        done += size


def _rounding_append(append):
    def rounding(self, layer, k_BKTC, v_BKTC):
        return append(self, layer, rounded(k_BKTC), rounded(v_BKTC))

    return rounding
