"""Attention over texts that are only read equals attention as it is trained: on a GPU they have kernels of their own."""

import itertools

import pytest
import torch

from dunwu.model.blocks.reading import Reading, causal_mask
from tests.model.helpers import TINY

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("groups", "kind"), [*itertools.product((1, 3), ("causal", "suffix", "everything"))])
def test_reading_without_plans_equals_attention_written_out(groups, kind, dtype, device):
    time, source = 5, 5 if kind == "causal" else 13
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, heads, length, 16, generator=generator).to(device, dtype)
        for heads, length in ((2 * groups, time), (2, source), (2, source))
    )
    mask = causal_mask(source, 7, torch.device(device))[-time:][None, None] if kind == "suffix" else None
    reading = Reading(torch.zeros(2, time, TINY.hidden_size, device=device, dtype=dtype), TINY, None, None, None)
    with torch.inference_mode():
        found = reading._attend_by_torch(mask, q, k, v, groups, causal=kind == "causal", only_read=True)
        scores = q.float() @ k.float().repeat_interleave(groups, 1).mT * TINY.score_scale
        hidden = causal_mask(source, None, scores.device).logical_not() if kind == "causal" else None
        hidden = ~mask if mask is not None else hidden
        if hidden is not None:
            scores = scores.masked_fill(hidden, -torch.inf)
        plain = (scores.softmax(-1) @ v.float().repeat_interleave(groups, 1)).transpose(1, 2)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.float(), plain, atol=tolerance, rtol=tolerance)
