import pytest

from dunwu.infer.generate import Generator
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import Decoder, new_decoder
from dunwu.tokenizer.bpe import Tokenizer, train_tokenizer

CONTEXT = 48


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return train_tokenizer(["a cat sat. 猫坐着。" * 3], vocab_size=280, out=tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def model(tokenizer) -> Decoder:
    """Random weights, wide enough apart that no two tokens are nearly equal."""
    config = DecoderConfig(
        vocab_size=tokenizer.vocab_size + 5,  # padded, as vocabularies often are
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,  # a tied one would only repeat its last token
    )
    decoder = new_decoder(config, seed=1)
    for weight in (decoder.model.embed_tokens.weight, decoder.lm_head.weight):
        weight.data.mul_(50)
    return decoder.requires_grad_(False)


@pytest.fixture(scope="session")
def generator(model, tokenizer) -> Generator:
    return Generator(model, tokenizer)
