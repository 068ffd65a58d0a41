"""Which rungs a target gets, by hand."""

import math

import pytest

from dunwu.core.errors import DataError, RecipeError
from dunwu.lab.ladder.plan import LEAST_STEPS, Family, Shape, Target, plan_ladder

SIZES = (100_000, 200_000, 400_000, 800_000, 1_600_000, 3_200_000)
FAMILY = Family(
    [
        Shape(hidden_size=32 * 2**at, layers=2, parameters=size, flops_per_token=6.0 * size)
        for at, size in enumerate(SIZES)
    ]
)


def target(size=3.2e6, tokens=64e6, batch_tokens=4096):
    return Target(size=size, tokens=tokens, flops=6 * size * tokens, batch_tokens=batch_tokens)


def plan(wanted, **changes):
    how = {"context_length": 128, "corpus_tokens": 10**9, "vocab_size": 500, "seed": 7, **changes}
    return plan_ladder(wanted, FAMILY, **how)


def test_costs_between_shapes_follow_logarithms():
    assert FAMILY.flops_per_token(200_000) == pytest.approx(1.2e6)
    assert FAMILY.flops_per_token(282_843) == pytest.approx(6 * 282_843, rel=1e-6)
    assert FAMILY.flops_per_token(50_000) == pytest.approx(3e5)
    assert FAMILY.flops_per_token(1e8) == pytest.approx(6e8)


def test_so_much_compute_trains_a_model_of_that_size():
    assert FAMILY.size_for(6 * 4e5 * 8e6, tokens_a_parameter=20) == pytest.approx(4e5, rel=1e-6)


def test_rungs_by_hand():
    """4.1e13 FLOPs at 20 tokens a parameter, in rungs of at most 1/32: the first level's middle is 3.2M / sqrt(32) = 566k."""
    rungs = plan(target(), largest=1 / 32, levels=2)
    levels = {round(math.log2(6 * 3.2e6 * 64e6 / rung.flops)) for rung in rungs}
    assert levels == {5, 6}
    top = {rung.shape.parameters: rung for rung in rungs if rung.flops > 3.2e13 / 33}
    assert sorted(top) == [200_000, 400_000, 800_000] or sorted(top) == [200_000, 400_000, 1_600_000]
    flops = 6 * 3.2e6 * 64e6 / 32
    assert top[400_000].tokens == pytest.approx(flops / 2.4e6, rel=0.01)
    assert top[400_000].batch_rows == round(32 * math.sqrt(flops / 2.4e6 / 64e6))


def test_no_rung_takes_more_than_its_share_and_all_together_take_a_fifth():
    wanted = target()
    rungs = plan(wanted)
    assert max(rung.flops for rung in rungs) <= wanted.flops / 30
    assert 0.1 < sum(rung.flops for rung in rungs) / wanted.flops < 0.21
    assert [rung.flops for rung in rungs] == sorted(rung.flops for rung in rungs)


def test_one_cheap_rung_is_trained_with_three_seeds():
    rungs = plan(target())
    seeds = {}
    for rung in rungs:
        seeds.setdefault((rung.shape.parameters, rung.tokens), set()).add(rung.seed)
    assert sorted(map(len, seeds.values()))[-1] == 3
    assert sum(len(own) > 1 for own in seeds.values()) == 1
    assert max(seeds.values(), key=len) == {7, 8, 9}


def test_short_runs_get_small_batches_but_no_longer_than_whole_rows():
    rungs = plan(target(size=1e6, tokens=8e6, batch_tokens=65_536))
    for rung in rungs:
        assert rung.tokens % (rung.batch_rows * 128) == 0
        assert rung.tokens // (rung.batch_rows * 128) >= LEAST_STEPS


def test_a_target_below_its_ladder_is_refused_with_one_that_is_not():
    with pytest.raises(RecipeError, match=r"too few for a ladder.*forecast a target of (\S+) FLOPs") as caught:
        plan(target(size=1e5, tokens=1e5))
    least = float(str(caught.value).split("forecast a target of ")[1].split()[0])
    assert plan(target(size=2e5, tokens=least * 2 / 1.2e6))


def test_too_little_text_for_a_rung_is_told():
    with pytest.raises(DataError, match=r"the corpus has 100k tokens .* would read .*add documents"):
        plan(target(), corpus_tokens=100_000)
