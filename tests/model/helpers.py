"""Tiny configurations, and the same network from transformers."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import Decoder, new_decoder
from dunwu.model.families import Piece, config_to_hf, family_of

TINY = DecoderConfig(
    architecture="llama",
    vocab_size=61,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=6,
    max_position_embeddings=64,
    tie_word_embeddings=False,
)


def lively(config: DecoderConfig, seed: int = 0) -> Decoder:
    """A decoder whose weights are all large and different (norms too), so that a mistake shows."""
    model = new_decoder(config, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1.0 + 0.3 * noise if parameter.ndim == 1 else 0.3 * noise)
    return model


def transformers_twin(model: Decoder) -> Any:
    """transformers' own network with the same weights."""
    twin = new_twin(config_to_hf(model.config))
    missing, unexpected = twin.load_state_dict(dict(to_stored(model.state_dict(), model.config)), strict=False)
    assert not unexpected
    assert missing == (["lm_head.weight"] if model.config.tie_word_embeddings else [])
    return twin


def new_twin(values: dict[str, Any]) -> Any:
    """transformers' own network of that config.json, its weights random; attention by its plain formula."""
    import transformers

    of_class = getattr(transformers, values["architectures"][0])
    torch.manual_seed(0)
    twin: nn.Module = of_class(of_class.config_class(**values, attn_implementation="eager"))
    return twin.eval()


def to_stored(state: Mapping[str, Tensor], config: DecoderConfig) -> Iterator[tuple[str, Tensor]]:
    """The checkpoint of these weights (or gradients) of ours, by the list that the family gives."""
    for stored in family_of(config.architecture).stored(config):
        tensor = torch.full(stored.shape, torch.nan)
        for piece in stored.pieces:
            piece.theirs(tensor).copy_(_place(piece, state).detach())
        yield stored.name, tensor


def _place(piece: Piece, state: Mapping[str, Tensor]) -> Tensor:
    return state[piece.ours] if piece.index is None else state[piece.ours][piece.index]
