"""A model of random weights with a tokenizer, small enough for milliseconds."""

from pathlib import Path

from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import Decoder, new_decoder
from dunwu.tokenizer.bpe import Tokenizer, train_tokenizer


def tiny_tokenizer(folder: Path) -> Tokenizer:
    return train_tokenizer(["a cat sat. 猫坐着。" * 3], vocab_size=280, out=folder)


def tiny_model(vocab_size: int, *, context: int) -> Decoder:
    """Random weights, wide enough apart that no two tokens are nearly equal."""
    config = DecoderConfig(
        architecture="qwen3",
        qk_norm="head",
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=context,
        tie_word_embeddings=False,  # a tied one would only repeat its last token
    )
    decoder = new_decoder(config, seed=1)
    for weight in (decoder.model.embed_tokens.weight, decoder.lm_head.weight):
        weight.data.mul_(50)
    return decoder.requires_grad_(False)
