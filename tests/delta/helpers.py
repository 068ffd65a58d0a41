"""Models of all families with large, different weights, and what they say."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dunwu.core.deltas import DeltaSpec
from dunwu.core.errors import ModelError
from dunwu.delta.base import Delta
from dunwu.delta.registry import attach
from dunwu.delta.storing import load_delta, save_delta
from dunwu.infer.engine import Engine
from dunwu.infer.sampling import SamplingParams
from dunwu.infer.sequence import Request
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import Decoder
from tests.infer.tiny import tiny_tokenizer
from tests.model.helpers import TINY, lively
from tests.model.test_families import CONFIGS
from tests.model.test_mixtures import VARIANTS

ALL: dict[str, DecoderConfig] = {"tiny": TINY, **CONFIGS, **VARIANTS}


def base(name: str = "tiny", seed: int = 0) -> Decoder:
    return lively(ALL[name], seed)


def ids_of(model: Decoder, *, rows: int = 2, time: int = 9) -> Tensor:
    return torch.randint(0, model.config.vocab_size, (rows, time), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def logits(model: Decoder, ids: Tensor | None = None) -> Tensor:
    return model.logits(model(ids_of(model) if ids is None else ids))


def loss_of(model: Decoder) -> Tensor:
    ids = ids_of(model)
    said = model.logits(model(ids[:, :-1]))
    return nn.functional.cross_entropy(said.flatten(0, 1), ids[:, 1:].flatten())


def shake(delta: Delta, *, size: float = 0.05, seed: int = 5) -> Delta:
    """Give everything that learns a value away from its start, so that the delta does something."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in delta.trained().values():
            parameter.add_(size * torch.randn(parameter.shape, generator=noise))
    return delta


def state(model: Decoder) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def slopes(model: Decoder, delta: Delta) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Along a random direction of each parameter: its name, the slope by its gradient, and by finite differences."""
    loss_of(model).backward()
    noise = torch.Generator().manual_seed(0)
    for name, parameter in delta.trained().items():
        direction = torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
        assert parameter.grad is not None, name
        measured = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                parameter += step * direction
                measured.append(loss_of(model))
        with torch.no_grad():
            parameter += 1e-5 * direction
        yield name, (parameter.grad * direction).sum(), (measured[0] - measured[1]) / 2e-5


def assert_says_the_same(folder: Path, change: Callable[[Decoder], Delta], *, name: str = "llama") -> None:
    """Several texts at once through the engine, read in pieces, some of it remembered: what the plain pass says greedily."""
    tokenizer = tiny_tokenizer(folder)
    model = lively(replace(ALL[name], vocab_size=tokenizer.vocab_size))
    params = SamplingParams(max_tokens=10, temperature=0.0, stop_ids=())
    start = tuple(range(5, 31))
    prompts = [start, (*start, 40, 41), (7, 3)]
    requests = [Request(id=str(number), prompt_ids=ids, params=params) for number, ids in enumerate(prompts)]
    Engine(model, tokenizer).run(requests[:1])
    plain = logits(model, torch.tensor([prompts[0]]))
    change(model)
    assert not torch.allclose(logits(model, torch.tensor([prompts[0]])), plain, atol=1e-2 * float(plain.abs().max()))
    engine = Engine(model, tokenizer, token_budget=9, max_sequences=3, block_size=8)
    for _ in range(2):
        answers = [answer.outputs[0].ids for answer in engine.run(requests)]
        for prompt, answer in zip(prompts, answers, strict=True):
            ids = torch.tensor([[*prompt, *answer]])
            said = logits(model, ids)[0, len(prompt) - 1 : -1]
            best = said.max(-1).values
            assert bool((said.gather(1, torch.tensor(answer)[:, None])[:, 0] >= best - 1e-4 * best.abs()).all())


def assert_comes_and_goes(
    model: Decoder, spec: DeltaSpec, folder: Path, *, refusal: str, idle: float = 0.0, exact: bool = True
) -> Delta:
    """Attached it changes nothing until it has learned; what it trains gets gradients (of `idle` fewer than that share may be 0),
    the model none; saved, merged and unmerged, disabled and off again, each as it says. Returns it as `folder` gives it back."""
    before, said = state(model), logits(model)
    delta = attach(model, spec, seed=1)
    assert torch.equal(logits(model), said)
    shake(delta, size=0.3)
    loss_of(model).backward()
    gradients = [value.grad for value in delta.trained().values()]
    assert all(gradient is not None for gradient in gradients)
    silent = sum(not gradient.any() for gradient in gradients if gradient is not None)
    assert silent < max(1.0, idle * len(gradients))
    assert all(parameter.grad is None for parameter in model.parameters())
    changed = logits(model)
    assert not torch.allclose(changed, said, atol=1e-3)
    save_delta(delta, folder)
    if delta.mergeable:
        delta.merge()
        assert (logits(model) - changed).abs().max() <= 1e-5 * changed.abs().max()
        delta.unmerge()
    else:
        with pytest.raises(ModelError, match=refusal):
            delta.merge()
    assert torch.equal(logits(model), changed)
    with delta.disabled():
        assert torch.equal(logits(model), said)
        assert same(state(model), before)
    delta.detach()
    assert model.changes == ()
    assert same(state(model), before)
    again = load_delta(folder, model)
    assert again.count == delta.count
    assert (logits(model) - changed).abs().max() <= (0.0 if exact else 1e-5) * changed.abs().max()
    return again
