import pytest

from dunwu.infer.generate import Generator
from dunwu.model.decoder import Decoder
from dunwu.tokenizer.bpe import Tokenizer

from .tiny import tiny_model, tiny_tokenizer

CONTEXT = 48


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def model(tokenizer) -> Decoder:
    return tiny_model(tokenizer.vocab_size + 5, context=CONTEXT)  # padded, as vocabularies often are


@pytest.fixture(scope="session")
def generator(model, tokenizer) -> Generator:
    return Generator(model, tokenizer)
