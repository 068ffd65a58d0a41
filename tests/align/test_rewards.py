"""A reward out of specifications: a reward model among other parts says what it says alone."""

import dataclasses

import pytest

from dunwu.align.reward.disk import padding_id, save_reward_model
from dunwu.align.reward.model import new_reward_model
from dunwu.align.reward.scorer import RewardModelScorer
from dunwu.align.rewards import make_reward
from dunwu.core.rewards import reward_specs
from dunwu.model.decoder import new_decoder
from dunwu.tokenizer.bpe import train_tokenizer
from tests.align.test_reward_model import CONFIG, case


def test_a_reward_model_beside_other_parts(tmp_path):
    tokenizer = train_tokenizer(["what is it? it is a cat, and no dog. " * 20], vocab_size=290, out=tmp_path)
    config = dataclasses.replace(CONFIG, vocab_size=tokenizer.vocab_size, max_position_embeddings=128)
    model = new_reward_model(new_decoder(config, seed=3), seed=3)
    save_reward_model(model, tmp_path, pad_id=padding_id(tokenizer, config))
    cases = [case("what is it?", "it is a cat"), case("what is it?", "no dog")]
    alone = RewardModelScorer(model, tokenizer)(cases)
    middle = sum(alone) / 2
    clip = [middle - 1, middle]
    specs = reward_specs([f"2*model:{tmp_path}", {"kind": "model", "name": "clipped", "clip": clip}, "length:3"])
    scored = make_reward(specs, reward_model=tmp_path)(cases)
    assert scored.parts["model"] == pytest.approx(alone, abs=1e-6)
    assert scored.parts["clipped"] == pytest.approx([min(middle, max(middle - 1, one)) for one in alone], abs=1e-6)
    assert scored.parts["clipped"] != scored.parts["model"]
    assert scored.parts["length"] == [-1, -1]
    for total, one, clipped in zip(scored.totals, scored.parts["model"], scored.parts["clipped"], strict=True):
        assert total == pytest.approx(2 * one + clipped - 1)
