"""Rows for new tokens: old probabilities stay, new rows are the mean of their pieces, padding is used up first."""

import dataclasses

import pytest
import torch

from dunwu.build.grow import grow_vocabulary
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import new_decoder
from dunwu.model.hub import load_config, load_model, save_model

CONFIG = DecoderConfig(
    vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, max_position_embeddings=32, qk_norm="head",
)  # fmt: skip
PIECES = [(3, 4), (5, 6, 7), (49, 3)]


def grown(tied, first_id=50):
    model = new_decoder(dataclasses.replace(CONFIG, tie_word_embeddings=tied), seed=0)
    old = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grow_vocabulary(model, first_id=first_id, pieces=PIECES)
    return model, old


@pytest.mark.parametrize("tied", [True, False])
def test_old_logits_stay_and_only_the_new_rows_share_in_the_softmax(tied):
    model, old = grown(tied)
    before = new_decoder(dataclasses.replace(CONFIG, tie_word_embeddings=tied), seed=0)
    ids = torch.arange(20)[None]
    logits_before, logits = before.logits(before(ids)), model.logits(model(ids))
    assert torch.equal(logits[..., :50], logits_before)
    lost = logits_before.logsumexp(-1) - logits.logsumexp(-1)
    assert torch.allclose(lost, torch.log1p(-logits.softmax(-1)[..., 50:].sum(-1)), atol=1e-5)
    assert model.config.vocab_size == 53
    assert (model.head_weight is model.model.embed_tokens.weight) is tied
    assert torch.equal(model.model.embed_tokens.weight[:50], old["model.embed_tokens.weight"])


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_the_mean_of_their_pieces_in_the_embedding_and_in_the_head(tied):
    model, old = grown(tied)
    for name in ("model.embed_tokens.weight", *(() if tied else ("lm_head.weight",))):
        for i, pieces in enumerate(PIECES):
            expected = sum(old[name][piece] for piece in pieces) / len(pieces)
            assert torch.allclose(model.state_dict()[name][50 + i], expected)


@pytest.mark.parametrize("tied", [True, False])
def test_it_is_saved_read_back_and_learns_in_every_row(tied, tmp_path):
    model, _ = grown(tied)
    save_model(model, tmp_path)
    assert load_config(tmp_path).vocab_size == 53
    again = load_model(tmp_path)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())
    model.logits(model(torch.tensor([[50, 51, 52]]))).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    assert model.head_weight.grad[50:].abs().sum() > 0


def test_rows_that_pad_the_vocabulary_are_used_up_before_the_model_grows():
    model, old = grown(True, first_id=45)
    assert model.config.vocab_size == 50
    assert torch.equal(model.model.embed_tokens.weight[:45], old["model.embed_tokens.weight"][:45])
    assert torch.allclose(model.model.embed_tokens.weight[45], old["model.embed_tokens.weight"][[3, 4]].mean(0))
    assert torch.equal(model.model.embed_tokens.weight[48:], old["model.embed_tokens.weight"][48:])
    assert grown(True, first_id=49)[0].config.vocab_size == 52
