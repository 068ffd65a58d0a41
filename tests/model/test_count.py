"""What we count is what is there."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dunwu.model import count
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import new_decoder

from .helpers import TINY


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, tie_word_embeddings=True),
        replace(TINY, architecture="qwen3", qk_norm="head", num_key_value_heads=2, head_dim=8),
        replace(TINY, architecture="gemma2", attention_softcap=2.0, norm_placement="both", activation="gelu_tanh"),
        replace(TINY, positions="learned", norm="layer", mlp="plain", mlp_bias=True, attention_bias=True),
    ],
)
def test_parameters_and_flops_are_those_of_the_module(config: DecoderConfig) -> None:
    model = new_decoder(config, seed=0)
    assert count.parameters(config) == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model.logits(model(torch.zeros(1, 32, dtype=torch.long)))
    # torch counts attention over the whole square, we count the causal half
    half_attention = config.num_hidden_layers * 2 * 32 * config.query_size * 32
    assert counter.get_total_flops() == pytest.approx(32 * count.forward_flops_per_token(config, 32) + half_attention)


def test_a_window_bounds_what_attention_costs() -> None:
    config = replace(TINY, sliding_window=10, sliding_layers=(1,))
    seen = [sum(min(t, window) for t in range(1000)) / 1000 for window in (1000, 10)]
    extra = count.forward_flops_per_token(config, 1000) - count.forward_flops_per_token(config, 0)
    assert extra == pytest.approx(4 * config.query_size * sum(seen), rel=0.01)
