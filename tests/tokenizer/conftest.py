from pathlib import Path

import pytest

from dunwu.tokenizer.bpe import Tokenizer, train_tokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog. It's 1984, isn't it?\n\nThe dog doesn't mind.\n" * 3,
    "def add(a, b):\n    return a + b\n\n\nif __name__ == '__main__':\n        print(add(1, 23))\n" * 3,
    "顿悟，是忽然明白的意思。他说：“我明白了！”红楼梦第3回。\n红楼梦里的人都明白了。\n" * 3,
    "Привет, мир! Ça va très bien. こんにちは世界。 🙂🙃👩‍👩‍👧 naïve café\n" * 3,
]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    return train_tokenizer(TEXTS, vocab_size=500, out=folder)
