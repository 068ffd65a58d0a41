"""The clipped loss and its companions, worked out by hand, against plain torch and against TRL."""

import math

import numpy as np
import pytest
import torch

from dunwu.align.answers import rows_of
from dunwu.align.experience import Experience
from dunwu.align.objectives.policy import PolicyObjective, clipped_loss, divergence, rollout_weights, value_loss
from dunwu.align.rollout_stream import RolloutStream, Text
from dunwu.align.value import ValueModel
from dunwu.core.policy import GrpoSpec, PpoSpec
from dunwu.corpus.stream import Batch
from dunwu.model.decoder import new_decoder
from dunwu.train.objectives import causal_lm
from tests.align.helpers import CONFIG, item


def test_the_ratio_counts_only_within_its_bounds():
    new = torch.tensor([math.log(1.5), math.log(1.5), math.log(0.5), math.log(0.5), math.log(1.1)])
    advantages = torch.tensor([2.0, -2.0, 2.0, -2.0, 1.0])
    found = clipped_loss(new, torch.zeros(5), advantages, low=0.2, high=0.3)
    torch.testing.assert_close(found, -torch.tensor([2.6, -3.0, 1.0, -1.6, 1.1]))


def test_beyond_the_bounds_nothing_pulls_further():
    new = torch.tensor([math.log(1.5), math.log(0.5)], requires_grad=True)
    clipped_loss(new, torch.zeros(2), torch.tensor([1.0, -1.0]), low=0.2, high=0.2).sum().backward()
    assert new.grad.tolist() == [0.0, 0.0]


def test_estimators_of_the_divergence_have_its_mean():
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    q = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
    exact = (p * (p / q).log()).sum()
    for name in ("k1", "k3"):
        each = divergence(p.log(), q.log(), name)
        torch.testing.assert_close((p * each).sum(), exact)
    assert (divergence(p.log(), q.log(), "k3") >= 0).all()
    assert float((p * divergence(p.log(), q.log(), "k2")).sum()) == pytest.approx(float(exact), rel=0.05)


def test_k2_as_a_loss_has_the_gradient_of_the_divergence_itself():
    logits = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    q = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).log_softmax(0)
    logp = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((logp.exp() * (logp - q)).sum(), logits, retain_graph=True)
    (found,) = torch.autograd.grad((logp.exp().detach() * divergence(logp, q, "k2")).sum(), logits)
    torch.testing.assert_close(found, exact)


def test_what_the_engine_found_unlikely_counts_more_but_not_without_bound():
    trainer, engine = torch.log(torch.tensor([0.5, 0.9, 0.1])), torch.log(torch.tensor([0.25, 0.1, 0.2]))
    torch.testing.assert_close(rollout_weights(trainer, engine, 3.0), torch.tensor([2.0, 3.0, 0.5]))


def test_a_value_gains_nothing_beyond_its_bounds():
    value = torch.tensor([1.0, 0.1, -1.0])
    found = value_loss(value, torch.zeros(3), torch.tensor([2.0, 0.0, 2.0]), clip=0.2)
    torch.testing.assert_close(found, 0.5 * torch.tensor([1.8**2, 0.1**2, 9.0]))
    torch.testing.assert_close(value_loss(value, torch.zeros(3), torch.ones(3), clip=0.0)[0], torch.tensor(0.0))


def batch_of(*, advantages, engine, weight=None, **more):
    """Two prompts, one with two answers."""
    items = [item([1, 2, 3], [4, 5], [4, 6, 7]), item([8, 9], [10])]
    batch = rows_of(items, [[0, 1]], 32)
    notes = {"advantage_N": advantages, "engine_N": engine, "weight_N": weight or [1.0] * len(advantages), **more}
    batch.annotations.update({name: torch.tensor(value) for name, value in notes.items()})
    return batch, items


def plain_logprobs(model, items):
    """Of each token of each answer, from whole logits."""
    found = []
    for one in items:
        for answer in one.answers:
            ids = torch.tensor(np.concatenate((one.prompt, answer.ids)), dtype=torch.long)
            logprobs = model.logits(model(ids[None]))[0].log_softmax(-1)
            found += logprobs[len(one.prompt) - 1 : -1].gather(1, torch.tensor(answer.ids, dtype=torch.long)[:, None])[
                :, 0
            ]
    return torch.stack(found)


def test_the_objective_is_the_weighted_sum_and_its_gradient_that_of_plain_torch():
    model = new_decoder(CONFIG, seed=0).double()
    advantages, engine, old = [1.0, 1.0, -0.5, -0.5, -0.5, 2.0], [-4.0] * 6, [-4.2, -4.0, -4.1, -3.9, -4.4, -4.1]
    weight = [0.5, 0.5, 1 / 3, 1 / 3, 1 / 3, 1.0]
    reference = [-4.0, -4.3, -4.0, -4.2, -4.0, -4.0]
    spec = GrpoSpec(beta=0.3, entropy=0.1, rollout_cap=1.05)
    batch, items = batch_of(advantages=advantages, engine=engine, weight=weight, old_N=old, reference_N=reference)
    objective = PolicyObjective(spec)
    loss, figures = objective(model, batch, total_learned=3)
    new = plain_logprobs(model, items)
    old, reference, weights = torch.tensor(old), torch.tensor(reference), torch.tensor(weight)
    ratio = (new - old).exp()
    each = -torch.minimum(ratio * torch.tensor(advantages), ratio.clamp(0.8, 1.2) * torch.tensor(advantages))
    each = each * (old + 4.0).exp().clamp(max=1.05)
    kl = (reference - new).exp() - 1 - (reference - new)
    rows = [
        torch.tensor(np.concatenate((one.prompt, answer.ids)), dtype=torch.long)
        for one in items
        for answer in one.answers
    ]
    entropies = []
    for ids, prompt in zip(rows, (3, 3, 2), strict=True):
        logp = model.logits(model(ids[None]))[0].log_softmax(-1)[prompt - 1 : -1]
        entropies.append(-(logp.exp() * logp).sum(-1))
    expected = ((each + 0.3 * kl - 0.1 * torch.cat(entropies)) * weights).sum() / 3
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    assert float(sum(figures.values())) == pytest.approx(float(loss.detach()), abs=1e-6)
    parameters = [p for p in model.parameters() if p.requires_grad]
    ours = torch.autograd.grad(loss, parameters)
    theirs = torch.autograd.grad(expected, parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    collected = objective.collected()
    assert collected["ratio_max"] == pytest.approx(float((new - torch.tensor(engine)).exp().max()), rel=1e-5)
    beyond = (ratio < 0.8) | (ratio > 1.2)
    assert collected["ratio_clipped"] == pytest.approx(float(beyond.double().mean()))
    assert objective.collected() == {}


def test_the_first_update_has_the_plain_policy_gradient():
    model = new_decoder(CONFIG, seed=0)
    batch, items = batch_of(advantages=[1.0] * 5 + [-1.0], engine=[-4.0] * 6)
    loss, _ = PolicyObjective(GrpoSpec(rollout_cap=0.0))(model, batch, total_learned=6)
    plain = -(torch.tensor([1.0] * 5 + [-1.0]) * plain_logprobs(model, items)).mean()
    parameters = list(model.parameters())
    for a, b in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(plain, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_values_are_read_before_each_token_and_learn_by_themselves():
    model, values = new_decoder(CONFIG, seed=0), ValueModel(new_decoder(CONFIG, seed=1), offset=0.25)
    batch, items = batch_of(
        advantages=[0.0] * 6, engine=[-4.0] * 6, value_N=[0.25] * 6, return_N=[1.0, 1.0, 0.0, 0.0, 0.0, 0.5]
    )
    assert values.values(batch).tolist() == [0.25] * 6
    with torch.no_grad():
        values.head.weight.copy_(torch.randn(1, CONFIG.hidden_size, generator=torch.Generator().manual_seed(2)))
    ids = torch.tensor(np.concatenate((items[0].prompt, items[0].answers[1].ids)), dtype=torch.long)
    alone = values.head(values.decoder(ids[None]))[0, 2:5, 0]
    torch.testing.assert_close(values.values(batch)[2:5], alone, rtol=1e-4, atol=1e-5)
    loss, figures = PolicyObjective(PpoSpec(beta=0.0), values=values)(model, batch, total_learned=6)
    loss.backward()
    assert float(figures["value_loss"]) > 0
    assert values.head.weight.grad.abs().sum() > 0
    assert all(
        p.grad is None or not p.grad.any() for p in model.parameters()
    )  # nothing was better or worse than expected


def test_a_value_model_comes_back_from_a_checkpoint():
    one, other = (ValueModel(new_decoder(CONFIG, seed=seed), offset=seed) for seed in (1, 2))
    other.load(one.tensors())
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


class Texts:
    """Rows of plain text: row r repeats the id r + 1."""

    context_length, rows_per_epoch, fingerprint = 8, 100, "texts"

    def batch(self, first_row, rows):
        ids = torch.arange(first_row, first_row + rows)[:, None].repeat(1, 8) % 50 + 1
        return Batch(
            ids_BT=ids,
            targets_BT=ids.clone(),
            positions_BT=torch.arange(8).repeat(rows, 1),
            document_BT=None,
            learned_tokens=ids.numel(),
        )


def test_text_of_pretraining_is_learned_beside_the_answers_however_they_are_cut_up():
    items = tuple(item([1, 2], [3 + n], [4 + n, 5], kinds=(0, 0)) for n in range(4))
    made = Experience(
        step=0, number=0, prompts=(0, 1, 2, 3), items=items, texts=("",) * 8, reasons=("stop",) * 8, scores_A=np.zeros(8),
        parts={}, kl_coefficient=0.0, engine_N=np.full(12, -4.0),
    )  # fmt: skip
    spec = GrpoSpec(pretraining=0.5)
    stream = RolloutStream(spec, prompts=4, most_tokens=4, seed=0, text=Text(stream=Texts(), rows=2))
    stream.take(made)
    model = new_decoder(CONFIG, seed=0)
    expected = 0.5 * float(causal_lm(model, Texts().batch(0, 2), total_learned=16)[0].detach())
    for micro in (1, 2, 4):
        batches = [stream.batch(at, micro) for at in range(0, 4, micro)]
        total = sum(batch.learned_tokens for batch in batches)
        losses = [PolicyObjective(spec)(model, batch, total_learned=total)[1] for batch in batches]
        found = sum(float(one["pretraining_loss"]) for one in losses if "pretraining_loss" in one)
        assert found == pytest.approx(expected, rel=1e-5)
        assert sum(float(one["policy_loss"]) for one in losses) == 0.0


def test_micro_batches_of_a_rollout_add_up_to_the_whole():
    random = np.random.default_rng(0)
    items = tuple(
        item([1, 2, n], *(random.integers(1, 60, size) for size in (2, 5, 3)), kinds=(0,) * 3) for n in range(3, 7)
    )
    made = Experience(
        step=0, number=0, prompts=(0, 1, 2, 3), items=items, texts=("",) * 12, reasons=("stop",) * 12,
        scores_A=random.normal(size=12), parts={}, kl_coefficient=0.0, engine_N=np.full(40, -4.1),
    )  # fmt: skip
    model = new_decoder(CONFIG, seed=0)
    for per in ("answer", "token", "constant"):
        spec = GrpoSpec(per=per)
        stream = RolloutStream(spec, prompts=4, most_tokens=6, seed=0)
        stream.take(made)
        gradients = []
        for micro in (1, 2, 4):
            model.zero_grad()
            batches = [stream.batch(at, micro) for at in range(0, 4, micro)]
            total = sum(batch.learned_tokens for batch in batches)
            assert total == (40 if per == "token" else 12)
            for batch in batches:
                PolicyObjective(spec)(model, batch, total_learned=total)[0].backward()
            gradients.append(model.model.layers[0].self_attn.q_proj.weight.grad.clone())
        torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(gradients[1], gradients[2], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("spec", [GrpoSpec(), GrpoSpec(beta=0.1)], ids=["rewards alone", "divergence too"])
def test_prompts_that_teach_nothing_are_not_read_and_change_nothing_by_that(spec, monkeypatch):
    items = tuple(item([1, 2, n], [4, n], [5, 6, 7], kinds=(0, 0)) for n in range(3, 7))
    made = Experience(
        step=0, number=0, prompts=(0, 1, 2, 3), items=items, texts=("",) * 8, reasons=("stop",) * 8,
        scores_A=np.array([1.0, 1.0, 0.0, 1.0, 0.5, 0.5, 1.0, 0.0]), parts={}, kl_coefficient=0.0,
        engine_N=np.full(20, -4.1), reference_N=np.full(20, -4.0),
    )  # fmt: skip
    stream = RolloutStream(spec, prompts=4, most_tokens=6, seed=0)
    stream.take(made)
    model, gradients, read = new_decoder(CONFIG, seed=0), [], []
    for teaches in (stream._teaches, [True] * 4):
        monkeypatch.setattr(stream, "_teaches", teaches)
        model.zero_grad()
        stream.read_positions = 0
        batch = stream.batch(0, 4)
        assert batch.learned_tokens == 8
        PolicyObjective(spec)(model, batch, total_learned=8)[0].backward()
        gradients.append(model.model.layers[0].self_attn.q_proj.weight.grad.clone())
        read.append(stream.read_positions)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)
    assert read[0] == (read[1] if spec.beta else read[1] / 2)
