import math

import pytest
import torch

from dunwu.core.errors import ModelError, RecipeError
from dunwu.infer.sampler import GREEDY, Sampling, filtered_probabilities, sample

LOGITS = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()


def probabilities(**settings) -> list[float]:
    sampling = Sampling(**{"temperature": 1.0, **settings})
    return [round(value, 4) for value in filtered_probabilities(LOGITS, sampling)[0].tolist()]


def test_filters_by_hand():
    assert probabilities() == [0.4, 0.3, 0.2, 0.1]
    assert probabilities(top_k=2) == [0.5714, 0.4286, 0, 0]
    assert probabilities(top_k=99) == [0.4, 0.3, 0.2, 0.1]
    assert probabilities(top_p=0.6) == [0.5714, 0.4286, 0, 0]  # 0.4 falls short of 0.6, so 0.3 is needed too
    assert probabilities(top_p=0.01) == [1, 0, 0, 0]  # never nothing
    assert probabilities(min_p=0.6) == [0.5714, 0.4286, 0, 0]  # at least 0.6 · 0.4
    assert probabilities(temperature=0.5) == [0.5333, 0.3, 0.1333, 0.0333]  # squares, over 0.3
    assert probabilities(top_k=3, top_p=0.7) == [0.5714, 0.4286, 0, 0]  # 0.4 / 0.9 + 0.3 / 0.9 reach 0.7


def test_a_tiny_temperature_does_not_overflow():
    assert probabilities(temperature=1e-30) == [1, 0, 0, 0]


def test_numbers_fall_into_their_share_of_the_distribution():
    drawn = [(0.0, 0), (0.399, 0), (0.401, 1), (0.699, 1), (0.701, 2), (0.899, 2), (0.901, 3), (0.9999999, 3)]
    assert sample(LOGITS.expand(len(drawn), -1), Sampling(temperature=1.0), [u for u, _ in drawn]) == [
        i for _, i in drawn
    ]


def test_a_filtered_token_is_never_drawn_not_even_at_the_border():
    border = Sampling(temperature=1.0, top_k=1)
    assert sample(LOGITS.flip(-1), border, [0.0]) == [3]
    assert sample(LOGITS, border, [1 - 2**-53]) == [0]


def test_greedy_takes_the_likeliest():
    assert sample(torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), GREEDY) == [1, 0]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0)])
def test_logits_that_are_no_numbers_are_an_error_not_a_token(sampling):
    with pytest.raises(ModelError, match="not finite"):
        sample(torch.tensor([[0.0, math.nan]]), sampling, [0.5])


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 2.0},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(RecipeError, match=next(iter(settings))):
        Sampling(**settings)
