"""Several deltas made one: sums are what the several do together, TIES and DARE by hand."""

import pytest
import torch

from dunwu.core.deltas import (
    BitFitSpec,
    DoraSpec,
    FisherSpec,
    HoulsbySpec,
    Ia3Spec,
    LastLayersSpec,
    LoraSpec,
    NormsSpec,
    PatternSpec,
    PissaSpec,
    PrefixSpec,
    RsLoraSpec,
)
from dunwu.core.errors import ModelError
from dunwu.delta.composing import combine
from dunwu.delta.registry import attach, attached
from dunwu.delta.storing import load_delta, save_delta
from tests.delta.helpers import base, logits, shake

NAME = "model.layers.0.mlp.up_proj.weight"


def several(specs, weights, name="tiny"):
    """The deltas, taken off again, and what they say together at these weights."""
    model = base(name)
    deltas = [shake(attach(model, spec, seed=number), seed=number) for number, spec in enumerate(specs)]
    for delta, weight in zip(deltas, weights, strict=True):
        delta.weight = weight
    said = logits(model)
    for delta in reversed(deltas):
        delta.detach()
        delta.weight = 1.0
    return model, deltas, said


@pytest.mark.parametrize(
    ("name", "specs"),
    [
        ("tiny", [LoraSpec(r=2), RsLoraSpec(r=3, targets=("q_proj", "down_proj"))]),
        ("tiny", [LoraSpec(r=14), LoraSpec(r=15)]),  # more ranks than the matrices have
        ("tiny", [PissaSpec(r=2), LoraSpec(r=2)]),
        ("mixtral", [LoraSpec(r=2, targets=("experts.*",)), LoraSpec(r=3, targets=("experts.down_proj",))]),
        ("tiny", [NormsSpec(), NormsSpec()]),
        ("gpt2", [BitFitSpec(), BitFitSpec()]),
        ("tiny", [BitFitSpec(), BitFitSpec()]),  # with biases that the model lacks
        ("tiny", [LastLayersSpec(), NormsSpec()]),
        ("tiny", [FisherSpec(share=0.01), FisherSpec(share=0.02, targets=("mlp.*",))]),
        ("tiny", [FisherSpec(share=0.01), PatternSpec(targets=("up_proj.weight",))]),
    ],
)
def test_a_sum_does_what_all_do_together(name, specs, tmp_path):
    model, deltas, said = several(specs, (0.7, -1.2), name)
    one = attached(combine(deltas, weights=(0.7, -1.2)))
    assert (logits(model) - said).abs().max() <= 1e-5 * said.abs().max()
    save_delta(one, tmp_path)
    one.detach()
    load_delta(tmp_path, model)
    assert (logits(model) - said).abs().max() <= 1e-5 * said.abs().max()


def test_a_sum_cut_to_a_rank_is_the_nearest_of_that_rank():
    _, deltas, _ = several([LoraSpec(r=3), LoraSpec(r=3)], (1.0, 1.0))
    exact, cut = combine(deltas), combine(deltas, rank=2)
    for name, pair in cut.pairs.items():
        assert pair.rank == 2
        whole = exact.pairs[name].merged_into(torch.zeros(pair.place.shape), 1.0)
        lost = whole - pair.merged_into(torch.zeros(pair.place.shape), 1.0)
        rest = torch.linalg.svdvals(whole)[2:]
        assert torch.allclose(lost.norm(), rest.norm(), rtol=1e-4)
    assert {pair.rank for pair in exact.pairs.values()} == {6}
    same = combine(deltas, rank=6)
    for name, pair in same.pairs.items():
        zeros = torch.zeros(pair.place.shape)
        assert torch.allclose(pair.merged_into(zeros, 1.0), exact.pairs[name].merged_into(zeros, 1.0), atol=1e-5)


def filled(*values):
    """Deltas of one row of numbers each, the others zero."""
    model = base()
    deltas = []
    for numbers in values:
        delta = attach(model, PatternSpec(targets=(NAME,)), seed=0)
        with torch.no_grad():
            delta.values[NAME][0, : len(numbers)] = torch.tensor(numbers)
        delta.detach()
        deltas.append(delta)
    return deltas


def test_ties_by_hand():
    """Of 960 numbers the four greatest of each stay; a sign is the sum's; those that disagree are left out of the mean."""
    one = filled([4.0, -3.0, 2.0, 5.0, 0.1], [1.0, 6.0, -0.2, 3.0, 0.3], [2.0, 1.0, 3.0, -4.0, 0.2])
    merged = combine(one, how="ties", density=4 / 960).values[NAME]
    # the last number falls to one delta alone, where it is among its four greatest
    wanted = torch.tensor([7 / 3, 3.5, 2.5, 4.0, 0.3])
    assert torch.allclose(merged[0, :5], wanted)
    assert not merged[1:].any()
    weighed = combine(one, how="ties", density=4 / 960, weights=(2.0, 1.0, 1.0)).values[NAME]
    # the first counts twice: 8, 1, 2; then -6, 6, 1; 4, 3; 10, 3, -4
    assert torch.allclose(weighed[0, :5], torch.tensor([11 / 3, 3.5, 3.5, 6.5, 0.3]))


def test_dare_keeps_a_share_enlarged():
    model = base()
    deltas = [shake(attach(model, PatternSpec(targets=(NAME,)), seed=n), seed=n) for n in range(2)]
    first, second = (delta.values[NAME].detach() for delta in deltas)
    merged = combine(deltas, how="dare", density=0.25, seed=3).values[NAME]
    possible = torch.stack((torch.zeros_like(first), 4 * first, 4 * second, 4 * (first + second)))
    nearest, which = (possible - merged).abs().min(0)
    assert nearest.max() < 1e-6
    shares = torch.bincount(which.flatten(), minlength=4) / merged.numel()
    assert torch.allclose(shares, torch.tensor([0.5625, 0.1875, 0.1875, 0.0625]), atol=0.05)
    assert torch.equal(merged, combine(deltas, how="dare", density=0.25, seed=3).values[NAME])
    assert not torch.equal(merged, combine(deltas, how="dare", density=0.25, seed=4).values[NAME])
    assert torch.allclose(combine(deltas, how="dare", density=1.0).values[NAME], first + second, atol=1e-7)


@pytest.mark.parametrize("how", ["ties", "dare"])
def test_of_low_rank_the_differences_are_combined(how):
    _, deltas, _ = several(
        [LoraSpec(r=2, targets=("q_proj",)), LoraSpec(r=2, targets=("q_proj", "v_proj"))], (1.0, 1.0)
    )
    made = combine(deltas, how=how, density=0.5, seed=1)
    assert set(made.pairs) == set(deltas[1].pairs)
    assert all(float(pair.a.norm()) > 0 for pair in made.pairs.values())
    assert not any(torch.isnan(pair.b).any() for pair in made.pairs.values())
    alone = combine(deltas[:1], how=how, density=1.0)
    for name, pair in alone.pairs.items():
        zeros = torch.zeros(pair.place.shape)
        wanted = deltas[0].pairs[name].merged_into(zeros, 1.0)
        assert torch.allclose(pair.merged_into(zeros, 1.0), wanted, atol=1e-6)


def test_scales_are_differences_from_one():
    _, deltas, _ = several([Ia3Spec(), Ia3Spec()], (1.0, 1.0))
    made = combine(deltas, weights=(0.5, 2.0))
    for name, scales in made.scales.items():
        one, two = (delta.scales[name].scale for delta in deltas)
        assert torch.allclose(scales.scale, 1 + 0.5 * (one - 1) + 2.0 * (two - 1), atol=1e-6)


@pytest.mark.parametrize(
    ("specs", "options", "message"),
    [
        ([LoraSpec(r=2), NormsSpec()], {}, "lora, norms cannot become one delta"),
        ([HoulsbySpec(bottleneck=2)] * 2, {}, "houlsby, houlsby cannot become one delta"),
        ([PrefixSpec(length=2)] * 2, {}, "attach the others together instead"),
        ([DoraSpec(r=2)] * 2, {}, "dora gives rows their lengths"),
        ([NormsSpec()] * 2, {"how": "mean"}, "how='mean' is not known; use linear, ties or dare"),
        ([NormsSpec()] * 2, {"weights": (1.0,)}, "1 weights for 2 deltas"),
        ([NormsSpec()] * 2, {"how": "ties", "density": 0.0}, r"density=0\.0 must be above 0"),
        ([NormsSpec()] * 2, {"rank": 3}, "rank=3 is for LoRA"),
        ([LoraSpec(r=2)] * 2, {"rank": 0}, "rank=0 must be at least 1"),
        ([], {}, "there is no delta to combine"),
    ],
)
def test_what_has_no_sum(specs, options, message):
    _, deltas, _ = several(specs, [1.0] * len(specs))
    with pytest.raises(ModelError, match=message):
        combine(deltas, **options)


def test_of_different_bases():
    one, two = (attach(base(seed=seed), NormsSpec(), seed=0) for seed in (0, 1))
    with pytest.raises(ModelError, match="trained on different bases"):
        combine([one, two])
