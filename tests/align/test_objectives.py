"""Each method's loss against a sum done by hand, and against trl's own code where trl is there."""

import math
import types

import pytest
import torch
from torch.nn import functional as F

from dunwu.align.answers import CHOSEN, REJECTED, UNRELATED, Answers
from dunwu.align.objectives.cpo import cpo, cpo_loss
from dunwu.align.objectives.dpo import dpo, dpo_loss
from dunwu.align.objectives.ipo import ipo, ipo_loss
from dunwu.align.objectives.kto import kto, kto_loss
from dunwu.align.objectives.orpo import odds_ratio_loss, orpo
from dunwu.align.objectives.simpo import simpo, simpo_loss
from dunwu.align.registry import OBJECTIVES, PreferenceObjective
from dunwu.align.stream import AnswerStream
from dunwu.model.decoder import new_decoder

from .helpers import CONFIG, items, spec


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def answers(reference=True):
    """Two pairs: chosen -2 and -6 in 2 and 3 tokens, rejected -3 and -4 in 3 and 4; references -2.5, -6.5, -2 and -4."""
    return Answers(
        logprobs_A=tensor(-2, -3, -6, -4),
        tokens_A=torch.tensor([2, 3, 3, 4]),
        kind_A=torch.tensor([CHOSEN, REJECTED, CHOSEN, REJECTED]),
        reference_A=tensor(-2.5, -2, -6.5, -4) if reference else None,
    )


def test_dpo_by_hand():
    # log-ratios .5 and -1: β · 1.5 = .75 with β = .5, and σ(.75) = .6791787
    assert float(dpo_loss(tensor(0.5), tensor(-1), beta=0.5)) == pytest.approx(-math.log(0.6791787), abs=1e-6)
    smoothed = 0.9 * -math.log(0.6791787) + 0.1 * -math.log(1 - 0.6791787)
    assert float(dpo_loss(tensor(0.5), tensor(-1), beta=0.5, label_smoothing=0.1)) == pytest.approx(smoothed, abs=1e-6)
    verdict = dpo(answers(), spec("dpo", beta=0.5))
    assert verdict.losses.tolist() == pytest.approx([-math.log(0.6791787), -math.log(0.5621765)], abs=1e-6)
    assert (verdict.chosen.tolist(), verdict.rejected.tolist()) == ([0.25, 0.25], [-0.5, 0.0])


def test_dpo_starts_at_the_logarithm_of_two_and_its_gradient_is_the_papers():
    chosen, rejected = (tensor(value).requires_grad_() for value in (0.3, 0.8))
    assert float(dpo_loss(tensor(1), tensor(1), beta=0.1)) == pytest.approx(math.log(2))
    found = torch.autograd.grad(dpo_loss(chosen, rejected, beta=0.2).sum(), (chosen, rejected))
    wrong = 1 / (1 + math.exp(-0.2 * (0.8 - 0.3)))  # β times how much the rewards are the wrong way round
    assert [float(value) for value in found] == pytest.approx([-0.2 * wrong, 0.2 * wrong])


def test_ipo_by_hand():
    assert float(ipo_loss(tensor(2), tensor(-1), beta=0.1)) == pytest.approx((3 - 5) ** 2)
    by_token = ipo(answers(), spec("ipo", beta=0.5))  # .25 + 1/3 - 1, and 1/6 - 0 - 1
    assert by_token.losses.tolist() == pytest.approx([(0.25 + 1 / 3 - 1) ** 2, (1 / 6 - 1) ** 2])
    summed = ipo(answers(), spec("ipo", beta=0.5, per_token=False))
    assert summed.losses.tolist() == pytest.approx([(0.5 + 1 - 1) ** 2, (0.5 - 1) ** 2])
    far = torch.tensor(50.0, requires_grad=True)
    ipo_loss(far, torch.tensor(0.0), beta=0.1).backward()
    assert far.grad is not None
    assert far.grad > 0  # a margin beyond 1 / (2β) is drawn back


def test_kto_by_hand():
    losses, z = kto_loss(tensor(1.5), tensor(-0.5, 2), tensor(0.2, 0.8), beta=2.0, desirable=1.0, undesirable=3.0)
    assert float(z) == pytest.approx(0.5)
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    expected = [1 - sigmoid(2 * 1.0), 3 * (1 - sigmoid(2 * 1.0)), 3 * (1 - sigmoid(2 * -1.5))]
    assert losses.tolist() == pytest.approx(expected)
    # a divergence is not negative, and has no gradient
    unrelated = tensor(-3, 1).requires_grad_()
    good = tensor(0.0).requires_grad_()
    losses, z = kto_loss(good, tensor(), unrelated, beta=1.0, desirable=1.0, undesirable=1.0)
    assert float(z) == 0
    losses.sum().backward()
    assert unrelated.grad is None
    judged = Answers(
        logprobs_A=tensor(-1, -2, -3, -1),
        tokens_A=torch.tensor([1, 1, 1, 1]),
        kind_A=torch.tensor([CHOSEN, UNRELATED, REJECTED, UNRELATED]),
        reference_A=tensor(-2, -3, -2, -1),
    )
    verdict = kto(judged, spec("kto", beta=1.0))
    assert verdict.losses.tolist() == pytest.approx([1 - sigmoid(0.5), 1 - sigmoid(1.5)])
    assert verdict.more["kl_from_unrelated"].tolist() == [0.5, 0.5]


def test_orpo_by_hand():
    # p = .8 and .5: odds 4 and 1
    losses, log_odds = odds_ratio_loss(tensor(math.log(0.8)), tensor(math.log(0.5)))
    assert float(log_odds) == pytest.approx(math.log(4))
    assert float(losses) == pytest.approx(-math.log(0.8))
    verdict = orpo(answers(reference=False), spec("orpo", weight=0.5))
    p, q = math.exp(-1), math.exp(-1)  # -2 / 2 and -3 / 3
    first = 1 + 0.5 * math.log(1 + (q / (1 - q)) / (p / (1 - p)))
    assert float(verdict.losses[0]) == pytest.approx(first)
    assert verdict.more["cross_entropy"].tolist() == [1.0, 2.0]


def test_orpo_stands_certainty_and_its_opposite():
    sure, hopeless = torch.tensor([0.0, -1e-9], requires_grad=True), torch.tensor([-80.0, -1e4])
    losses, _ = odds_ratio_loss(sure, hopeless)
    back, _ = odds_ratio_loss(hopeless, sure)
    (losses + back).sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(back).all()
    assert sure.grad is not None
    assert torch.isfinite(sure.grad).all()


def test_simpo_by_hand():
    assert float(simpo_loss(tensor(-1), tensor(-2), beta=2.0, gamma=1.0)) == pytest.approx(math.log(1 + math.exp(-1)))
    verdict = simpo(answers(reference=False), spec("simpo", beta=2.0, gamma=0.5))
    assert verdict.losses.tolist() == pytest.approx([math.log(1 + math.exp(0.5)), math.log(1 + math.exp(2.5))])
    assert verdict.chosen.tolist() == [-2.0, -4.0]


def test_cpo_by_hand():
    assert float(cpo_loss(tensor(-2), tensor(-3), beta=0.5)) == pytest.approx(math.log(1 + math.exp(-0.5)))
    verdict = cpo(answers(reference=False), spec("cpo", beta=0.5, cross_entropy_weight=2.0))
    assert verdict.losses.tolist() == pytest.approx(
        [math.log(1 + math.exp(-0.5)) + 2 * 1.0, math.log(1 + math.exp(1.0)) + 2 * 2.0]
    )


@pytest.mark.parametrize("method", [name for name in OBJECTIVES if name != "kto"])
def test_micro_batches_add_up_to_the_batch(method):
    made = items(24)
    model = new_decoder(CONFIG, seed=0)
    reference = [torch.randn(2, generator=torch.Generator().manual_seed(at)).numpy() for at in range(24)]
    stream = AnswerStream(made, least_width=48, seed=0, reference=reference)
    objective = PreferenceObjective(spec(method))
    whole = stream.batch(0, stream.rows_per_epoch)
    assert whole.learned_tokens == 24
    loss, figures = objective(model, whole, total_learned=24)
    parts = [objective(model, stream.batch(row, 1), total_learned=24) for row in range(stream.rows_per_epoch)]
    assert float(sum(part.detach() for part, _ in parts)) == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, value in figures.items():
        assert float(sum(more[name] for _, more in parts)) == pytest.approx(float(value), rel=1e-4, abs=1e-5), name
    assert float(figures["reward_margin"]) == pytest.approx(
        float(figures["rewards_chosen"] - figures["rewards_rejected"]), abs=1e-6
    )


# ---- trl's own losses on the same numbers


def whole(seed=0):
    """Log-probabilities of tokens from made-up logits, for eight answers of one length, four chosen and four rejected."""
    generator = torch.Generator().manual_seed(seed)
    logits, reference = (torch.randn(8, 6, 11, generator=generator, dtype=torch.float64) for _ in range(2))
    targets = torch.randint(0, 11, (8, 6), generator=generator)
    found = (value.log_softmax(-1).gather(-1, targets[..., None])[..., 0].sum(-1) for value in (logits, reference))
    ours, theirs = found
    return Answers(
        logprobs_A=ours,
        tokens_A=torch.full((8,), 6),
        kind_A=torch.tensor([CHOSEN] * 4 + [REJECTED] * 4),
        reference_A=theirs,
    )


def test_parity_with_trl_cpo_and_simpo():
    trainer = pytest.importorskip("trl.experimental.cpo", reason="trl is not installed").CPOTrainer
    made = whole()
    chosen, rejected = made.of(CHOSEN), made.of(REJECTED)
    theirs = types.SimpleNamespace(
        alpha=0.0, beta=0.3, loss_type="sigmoid", label_smoothing=0.0, simpo_gamma=0.7,
        accelerator=types.SimpleNamespace(device="cpu"),
    )  # fmt: skip
    losses, *rewards = trainer.cpo_loss(theirs, chosen.logprobs, rejected.logprobs)
    ours = cpo(made, spec("cpo", beta=0.3, cross_entropy_weight=0.0))
    torch.testing.assert_close(ours.losses, losses)
    torch.testing.assert_close(ours.chosen, rewards[0])
    theirs.loss_type = "simpo"
    losses, *_ = trainer.cpo_loss(theirs, chosen.mean_logprobs, rejected.mean_logprobs)
    torch.testing.assert_close(simpo(made, spec("simpo", beta=0.3, gamma=0.7)).losses, losses)


def test_parity_with_trl_orpo():
    trainer = pytest.importorskip("trl.experimental.orpo", reason="trl is not installed").ORPOTrainer
    made = whole()
    theirs = types.SimpleNamespace(beta=0.3, accelerator=types.SimpleNamespace(device="cpu"))
    means = [made.of(kind).mean_logprobs for kind in (CHOSEN, REJECTED)]
    losses, _, _, _, log_odds = trainer.odds_ratio_loss(theirs, *means)
    ours = orpo(made, spec("orpo", weight=0.3))
    # trl adds the cross-entropy afterwards, and computes in float32
    torch.testing.assert_close((ours.losses + means[0]).float(), -losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.more["log_odds_ratio"].mean().float(), log_odds, rtol=1e-5, atol=1e-6)


def test_dpo_equals_the_formula_that_trl_writes():
    made = whole()
    chosen, rejected = made.of(CHOSEN).log_ratios, made.of(REJECTED).log_ratios
    torch.testing.assert_close(dpo(made, spec("dpo", beta=0.2)).losses, -F.logsigmoid(0.2 * (chosen - rejected)))
    torch.testing.assert_close(ipo(made, spec("ipo", beta=0.2)).losses, (chosen / 6 - rejected / 6 - 1 / 0.4).square())
