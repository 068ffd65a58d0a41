import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.build.budget import (
    Limits,
    Speedometer,
    batch_rows,
    candidates,
    choose,
    choose_vocab_size,
    decoder_config,
    expected_loss,
    plan_training,
)
from dunwu.build.probe import TrainingSpeed
from dunwu.core.errors import ModelError, RecipeError
from dunwu.core.recipe import ModelSection, PretrainSection
from dunwu.model.count import parameters, train_flops_per_token

FLOPS = 1.2e11  # of a machine of two cores


def steady(config, context_length, rows):
    """A machine that computes every shape at the same rate."""
    return TrainingSpeed(token_s=train_flops_per_token(config, context_length) / FLOPS, step_s=0.02)


def limits(**changes):
    return Limits(
        **{"train_s": 1500.0, "memory_bytes": 8 * 10**9, "corpus_tokens": 7_000_000, "device": "cpu", **changes}
    )


def chosen(model=None, pretrain=None, vocab_size=4096, **changes):
    return choose(model or ModelSection(), pretrain or PretrainSection(), vocab_size, limits(**changes), steady)


@settings(deadline=None)
@given(st.floats(min_value=20, max_value=1e5))
def test_training_never_takes_more_than_its_time(train_s):
    choice = chosen(train_s=train_s, corpus_tokens=10**9)
    assert 0.8 * train_s <= choice.seconds <= 1.01 * train_s or choice.seconds <= train_s


def test_more_time_buys_a_larger_model_and_more_tokens():
    short, long = chosen(train_s=100, corpus_tokens=10**10), chosen(train_s=100_000, corpus_tokens=10**10)
    assert parameters(long.config) > 5 * parameters(short.config)
    assert long.tokens > 5 * short.tokens


def test_little_text_is_not_repeated_more_often_than_allowed_and_tiny_text_gets_a_tiny_model():
    scarce, tiny = chosen(corpus_tokens=500_000), chosen(corpus_tokens=1000)
    assert scarce.tokens <= 8 * 500_000 + scarce.batch_rows * scarce.context_length
    assert parameters(tiny.config) < parameters(scarce.config)
    assert tiny.config == candidates(ModelSection(), 4096)[0]


def test_where_text_runs_out_the_model_grows_rather_than_the_passes():
    once = PretrainSection(max_epochs=1)
    assert parameters(chosen(pretrain=once).config) > parameters(chosen(corpus_tokens=10**9).config)


def test_half_an_hour_with_a_shelf_of_books_gives_some_millions_of_parameters_and_some_passes():
    choice = chosen(vocab_size=2048)
    assert 0.8e6 < parameters(choice.config) < 6e6
    assert 1 < choice.tokens / 7e6 < 5


def test_memory_bounds_the_model_and_too_little_of_it_is_said():
    plenty = {"train_s": 1e6, "corpus_tokens": 10**10}
    large, small = chosen(**plenty), chosen(**plenty, memory_bytes=2 * 10**8)
    assert small.peak_bytes <= 2 * 10**8 < large.peak_bytes
    with pytest.raises(RecipeError, match="budget or memory"):
        chosen(memory_bytes=1000)
    with pytest.raises(RecipeError, match="budget or memory"):
        chosen(train_s=0.001)


def test_what_the_recipe_fixes_stays_as_it_is():
    model = ModelSection(hidden_size=96, num_hidden_layers=5, num_attention_heads=6, context_length=128)
    choice = chosen(model, PretrainSection(tokens=123_456, batch_tokens=1024))
    config = choice.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (96, 5, 6)
    assert config.head_dim == 16
    assert (choice.tokens, choice.batch_rows, choice.context_length) == (123_456, 8, 128)
    assert len(candidates(model, 4096)) == 1


def test_fixed_tokens_leave_the_choice_of_a_model_that_ends_in_time():
    fixed = PretrainSection(tokens=2_000_000)
    short, long = (chosen(pretrain=fixed, corpus_tokens=10**9, train_s=train_s) for train_s in (100, 1500))
    assert short.tokens == long.tokens == 2_000_000
    assert short.seconds <= 101
    assert long.seconds <= 1515
    assert parameters(short.config) < parameters(long.config)


def test_shapes_that_do_not_fit_together_are_refused():
    with pytest.raises(ModelError, match="num_key_value_heads=3"):
        decoder_config(
            ModelSection(num_attention_heads=4, num_key_value_heads=3), 128, 4, vocab_size=512, context_length=64
        )


def test_every_candidate_is_a_sound_shape_of_growing_size():
    sizes = [parameters(config) for config in candidates(ModelSection(), 4096)]
    assert sizes == sorted(set(sizes))


def test_repeated_text_is_worth_less_than_fresh_text_and_more_than_none():
    fresh, repeated = expected_loss(1e6, 8e6, 8e6), expected_loss(1e6, 8e6, 1e6)
    once = expected_loss(1e6, 1e6, 1e6)
    assert fresh < repeated < once


def test_the_law_weighs_tokens_and_parameters_where_the_runs_put_it():
    """About twenty tokens a parameter, as for large models."""
    compute = 2e14
    best = min((expected_loss(n, compute / (6 * n), math.inf), n) for n in (10 ** (5 + i / 50) for i in range(150)))[1]
    assert 10 < compute / (6 * best) / best < 40


def test_vocabularies_grow_with_the_model_and_with_chinese_and_shrink_with_little_text():
    books = {"en": 26_000_000}
    assert choose_vocab_size(books, 1e6) < choose_vocab_size(books, 20e6)
    assert choose_vocab_size({"zh": 26_000_000}, 1e6) > choose_vocab_size(books, 1e6)
    assert choose_vocab_size({"en": 50_000}, 20e6) == 1024
    assert choose_vocab_size({"en": 10**10}, 1e12) == 65536


def test_batches_are_small_in_short_runs():
    section = PretrainSection()
    assert batch_rows(section, 1e6, 256) * 256 == 2048
    assert batch_rows(section, 1e9, 256) * 256 == 2**18
    assert batch_rows(PretrainSection(batch_tokens=100), 1e6, 256) == 1


def test_speed_is_interpolated_between_the_probes_and_kept_level_beyond():
    def probe(config, context_length, rows):
        rate = 1e11 if config.hidden_size == 128 else 2e11
        return TrainingSpeed(
            token_s=train_flops_per_token(config, context_length) / rate, step_s=1e-8 * parameters(config)
        )

    speed = Speedometer(probe, 4096, ((128, 4), (256, 6)))

    def rate(config):
        return train_flops_per_token(config, 256) / speed(config, 256, 16).token_s

    shapes = {
        c.hidden_size: dataclasses.replace(c, max_position_embeddings=256) for c in candidates(ModelSection(), 4096)
    }
    assert rate(shapes[64]) == pytest.approx(1e11)
    assert 1e11 < rate(shapes[192]) < 2e11
    assert rate(shapes[1024]) == pytest.approx(2e11)


def launching(config, context_length, rows):
    """A GPU: 2 ms a layer and pass, however few rows."""
    flops_s = train_flops_per_token(config, context_length) / 1e14
    return TrainingSpeed(
        token_s=max(flops_s, 0.002 * config.num_hidden_layers / (rows * context_length)),
        step_s=1e-9 * parameters(config),
    )


@pytest.mark.parametrize("train_s", [40, 600, 6000])
def test_on_a_gpu_training_takes_its_time_whatever_its_batch(train_s):
    on_gpu = limits(device="cuda", train_s=train_s, memory_bytes=10**11, corpus_tokens=10**9)
    roughly = Speedometer(launching, 4096, ((512, 8), (1024, 16)), launches=True)
    config = choose(ModelSection(), PretrainSection(), 4096, on_gpu, roughly).config
    choice = plan_training(config, PretrainSection(), on_gpu, launching)
    assert choice is not None
    batch_tokens = choice.batch_rows * choice.context_length
    real = launching(config, choice.context_length, choice.micro_batch_rows)
    assert 0.7 * train_s < real.seconds(choice.tokens, batch_tokens) < 1.01 * train_s
    fixed = PretrainSection(batch_tokens=2048)
    small = plan_training(config, fixed, on_gpu, launching)
    assert small is not None
    assert small.batch_rows * small.context_length == 2048
    slow = launching(config, small.context_length, small.micro_batch_rows)
    assert slow.seconds(small.tokens, 2048) == pytest.approx(small.seconds, rel=0.01)
    assert choice.tokens > 3 * small.tokens


@pytest.mark.parametrize(
    "fixed", [{"num_attention_heads": 12}, {"num_key_value_heads": 4}, {"num_attention_heads": 128}]
)
def test_a_number_that_some_shapes_cannot_have_leaves_the_others(fixed):
    left = candidates(ModelSection(**fixed), 4096)
    assert 0 < len(left) < len(candidates(ModelSection(), 4096))
    assert all(getattr(config, name) == value for config in left for name, value in fixed.items())


def test_a_number_that_no_shape_can_have_is_an_error():
    with pytest.raises(ModelError, match="head_dim=0"):
        candidates(ModelSection(num_attention_heads=1000, hidden_size=64), 4096)
