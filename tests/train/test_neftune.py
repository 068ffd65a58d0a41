"""NEFTune: how much noise, where, and that a resumed run draws the same."""

import contextlib
from dataclasses import replace

import pytest
import torch

from dunwu.core.progress import SilentProgress
from dunwu.corpus.stream import Batch
from dunwu.model.decoder import Decoder, new_decoder
from dunwu.train.neftune import document_lengths, neftune
from dunwu.train.objectives import causal_lm
from dunwu.train.signals import Interrupted, StopSignal

from . import tiny

ALPHA = 5.0


def batch(document: list[list[int]] | None, rows: int = 1, columns: int = 8) -> Batch:
    ids_BT = torch.arange(rows * columns).reshape(rows, columns) % 50 + 1
    return Batch(
        ids_BT=ids_BT,
        targets_BT=ids_BT.roll(-1, 1),
        positions_BT=torch.arange(columns).expand(rows, columns),
        document_BT=None if document is None else torch.tensor(document),
        learned_tokens=ids_BT.numel(),
    )


def embedded(model: Decoder, rows: Batch, alpha: float) -> torch.Tensor:
    """What the first block receives while the objective runs."""
    seen: list[torch.Tensor] = []
    handle = model.model.layers[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    with neftune(model, causal_lm, alpha=alpha) as objective:
        objective(model, rows, total_learned=1)
    handle.remove()
    return seen[0]


@pytest.fixture
def model() -> Decoder:
    return new_decoder(tiny.CONFIG, seed=0).train()


def test_lengths_are_those_of_the_documents_within_a_row():
    assert document_lengths(batch([[0, 0, 0, 1, 2, 2, 2, 2]])).tolist() == [[3, 3, 3, 1, 4, 4, 4, 4]]
    assert document_lengths(batch(None, rows=2)).tolist() == [[8] * 8] * 2


def test_the_noise_is_uniform_within_its_bound_for_each_document(model):
    rows = batch([[0, 0, 0, 1, 2, 2, 2, 2]] * 40, rows=40)
    noise_BTD = embedded(model, rows, ALPHA) - model.embed(rows.ids_BT)
    bound_T = ALPHA / (torch.tensor([3, 3, 3, 1, 4, 4, 4, 4]) * tiny.CONFIG.hidden_size).sqrt()
    relative_BTD = noise_BTD / bound_T[:, None]
    assert relative_BTD.abs().max() <= 1.0001
    assert relative_BTD.abs().amax((0, 2)).min() > 0.98
    assert relative_BTD.mean().abs() < 0.02
    assert relative_BTD.square().mean().item() == pytest.approx(1 / 3, rel=0.03)


def test_a_row_of_one_document_gets_the_noise_of_transformers(model):
    hook = pytest.importorskip("transformers.integrations.neftune").neftune_post_forward_hook
    rows = batch(None, rows=2)
    torch.manual_seed(3)
    ours = embedded(model, rows, ALPHA)
    embedding = torch.nn.Embedding.from_pretrained(model.model.embed_tokens.weight.detach()).train()
    embedding.neftune_noise_alpha = ALPHA
    embedding.register_forward_hook(hook)
    torch.manual_seed(3)
    torch.testing.assert_close(ours, embedding(rows.ids_BT))


def test_without_noise_it_is_the_objective_itself_and_afterwards_nothing_is_left(model):
    rows = batch(None)
    with neftune(model, causal_lm, alpha=0.0) as objective:
        assert objective is causal_lm
    clean = causal_lm(model, rows, total_learned=1)[0].item()
    with neftune(model, causal_lm, alpha=ALPHA) as objective:
        assert objective(model, rows, total_learned=1)[0].item() != clean
        assert causal_lm(model, rows, total_learned=1)[0].item() == clean  # only what the objective itself computes
    assert causal_lm(model, rows, total_learned=1)[0].item() == clean


def test_a_compiled_model_draws_anew_and_follows_the_lengths(model):
    one, many = batch(None), batch([[0, 1, 2, 3, 4, 5, 6, 7]])
    seen: list[torch.Tensor] = []

    def first_embedding(decoder: Decoder, rows: Batch, *, total_learned: int):
        seen.append(decoder.model.embed_tokens(rows.ids_BT) - plain(rows.ids_BT))
        return causal_lm(decoder, rows, total_learned=total_learned)

    plain = torch.nn.Embedding.from_pretrained(model.model.embed_tokens.weight.detach().clone())
    with neftune(model, first_embedding, alpha=ALPHA) as objective:
        model.model.embed_tokens.compile(backend="aot_eager")
        for rows in (one, one, many):
            objective(model, rows, total_learned=1)
    bound = ALPHA / (8 * tiny.CONFIG.hidden_size) ** 0.5
    assert not torch.equal(seen[0], seen[1])
    assert 0.9 * bound < seen[1].abs().max() <= 1.001 * bound
    assert 0.9 * bound * 8**0.5 < seen[2].abs().max() <= 1.001 * bound * 8**0.5


class Noisy:
    """The objective with noise around whichever model it is given; `stop` is asked for in its `stop_at`-th call."""

    def __init__(self, stop: StopSignal | None = None, stop_at: int = -1) -> None:
        self.stack, self.objective, self.calls = contextlib.ExitStack(), None, 0
        self.stop, self.stop_at = stop, stop_at

    def __call__(self, model: Decoder, rows: Batch, *, total_learned: int):
        self.objective = self.objective or self.stack.enter_context(neftune(model, causal_lm, alpha=ALPHA))
        self.calls += 1
        if self.stop is not None and self.calls == self.stop_at:
            self.stop.request()
        return self.objective(model, rows, total_learned=total_learned)


def test_a_run_that_was_stopped_and_resumed_draws_the_same_noise(memory_folder):
    settings = {"progress": SilentProgress(), "steps": 12}
    tiny.run(memory_folder / "whole", objective=Noisy(), **settings)
    tiny.run(memory_folder / "clean", **settings)
    assert tiny.weights(memory_folder / "whole") != tiny.weights(memory_folder / "clean")
    stop = StopSignal()
    with pytest.raises(Interrupted):
        tiny.run(memory_folder / "parts", objective=Noisy(stop, stop_at=14), stop=stop, **settings)
    assert tiny.run(memory_folder / "parts", objective=Noisy(), **settings).resumed_from == 7
    assert tiny.weights(memory_folder / "parts") == tiny.weights(memory_folder / "whole")


def test_gradients_reach_the_embedding(model):
    rows = replace(batch(None), learned_tokens=8)
    with neftune(model, causal_lm, alpha=ALPHA) as objective:
        objective(model, rows, total_learned=8)[0].backward()
    assert model.model.embed_tokens.weight.grad is not None
    assert model.model.embed_tokens.weight.grad.abs().sum() > 0
