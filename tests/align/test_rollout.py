"""Answers of a model with a delta: from weights that hold it meanwhile, in recorded passes where there is a GPU."""

import pytest
import torch

from dunwu.align.rollout import GREEDY, Sampler
from dunwu.core.deltas import LoraSpec
from dunwu.delta.registry import attach
from dunwu.model.config import DecoderConfig
from tests.align.policy_tiny import tokenizer
from tests.delta.helpers import shake, state
from tests.model.helpers import lively

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")),
]


@pytest.mark.parametrize("device", DEVICES)
def test_a_delta_that_goes_on_learning_is_heard_at_once_and_the_base_stays(tmp_path, device):
    words = tokenizer(tmp_path / "words")
    config = DecoderConfig(
        architecture="llama", vocab_size=words.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
    )  # fmt: skip
    model = lively(config, 0).to(device)
    before = state(model)
    delta = attach(model, LoraSpec(), seed=0)
    sampler = Sampler(model, words, most_prompt=20, most_answer=8)
    prompts = [words.encode(text) for text in ("a cat sat", "a mat", "sat on a mat a cat")]
    said: list[tuple[int, ...]] = []
    for size, seed in ((0.2, 1), (0.5, 2), (0.5, 3)):
        delta.to("cpu")
        shake(delta, size=size, seed=seed)
        delta.to(device)
        answers = sampler(prompts, [0, 1, 2], sampling=GREEDY)
        assert answers is not None
        for prompt, (one,) in zip(prompts, answers, strict=True):
            text = torch.tensor([[*prompt, *one.ids]], device=device)
            with torch.no_grad():
                plain = model.logits(model(text)[0, len(prompt) - 1 : -1]).log_softmax(-1)
            own = plain.gather(1, text[0, len(prompt) :, None])[:, 0]
            torch.testing.assert_close(torch.tensor(one.logprobs), own.cpu(), atol=1e-3, rtol=1e-3)
            said.append(one.ids)
    assert len(set(said)) > 5
    assert not delta.merged
    delta.detach()
    after = state(model)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
