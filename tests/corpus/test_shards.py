import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dunwu.core.errors import DataError
from dunwu.core.progress import SilentProgress
from dunwu.core.records import Document
from dunwu.corpus.shards import PIECE_CHARACTERS, ShardFacts, TokenShards, write_shards
from dunwu.tokenizer.bpe import Tokenizer, train_tokenizer

TEXTS = ["The quick brown fox.", "", "红楼梦第3回。\n他说：“我明白了！”", "def f(x):\n    return x + 1\n" * 5]


class Characters:
    """Code points as ids after one end-of-text id."""

    def __init__(self, vocab_size: int = 1 << 17) -> None:
        self.vocab_size = vocab_size
        self.eos_id = 0

    def encode_batch(self, texts: Any) -> list[np.ndarray]:
        return [np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.int32) + 1 for text in texts]


def documents(texts: list[str]) -> list[Document]:
    return [Document(text=text, source=str(i), language="zh" if "红" in text else "en") for i, text in enumerate(texts)]


def write(texts: list[str], out: Path, encoder: Any = None, workers: int = 1) -> ShardFacts:
    return write_shards(documents(texts), encoder or Characters(), out, progress=SilentProgress(), workers=workers)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(TEXTS * 4, vocab_size=400, out=tmp_path_factory.mktemp("tokenizer"))


def test_documents_come_back_in_order_each_closed_by_end_of_text(tmp_path: Path, tokenizer: Tokenizer) -> None:
    facts = write(TEXTS, tmp_path, tokenizer)
    shards = TokenShards.open(tmp_path)
    starts = [0, *shards.document_ends[:-1]]
    for start, end, text in zip(starts, shards.document_ends, TEXTS, strict=True):
        ids = shards.tokens[start:end].tolist()
        assert ids[-1] == tokenizer.eos_id
        assert ids[:-1] == tokenizer.encode(text)
    assert facts.text_bytes == sum(len(text.encode()) for text in TEXTS)
    assert facts.text_bytes_by_language["zh"] == len(TEXTS[2].encode())
    assert sum(facts.tokens_by_language.values()) == facts.tokens == len(shards)


def test_ids_above_65535_survive(tmp_path: Path) -> None:
    write(["a🙂"], tmp_path)
    assert TokenShards.open(tmp_path).tokens.tolist() == [ord("a") + 1, ord("🙂") + 1, 0]


def test_a_vocabulary_of_65536_fits_two_bytes_and_one_more_does_not(tmp_path: Path) -> None:
    assert write(["a"], tmp_path / "a", Characters(1 << 16)).dtype == "uint16"
    assert write(["a"], tmp_path / "b", Characters((1 << 16) + 1)).dtype == "uint32"


def test_workers_do_not_change_the_files(tmp_path: Path) -> None:
    texts = [f"{i} " * 50_000 for i in range(40)]
    alone, together = (write(texts, tmp_path / str(workers), workers=workers) for workers in (1, 4))
    assert alone == together


def test_an_endless_line_is_encoded_in_pieces_without_loss(tmp_path: Path) -> None:
    for number, text in enumerate(["ab" * PIECE_CHARACTERS, "word " * PIECE_CHARACTERS]):
        write([text], tmp_path / str(number))
        ids = TokenShards.open(tmp_path / str(number)).tokens[:-1]
        assert (ids - 1).astype("<u4").tobytes().decode("utf-32-le") == text


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    def many(count: int) -> Iterator[Document]:
        return (Document(text="x" * 100_000, source=str(i)) for i in range(count))

    peaks: list[int] = []
    for count in (60, 600):
        tracemalloc.start()
        write_shards(many(count), Characters(), tmp_path / str(count), progress=SilentProgress())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]  # of ten times the text; which chunks are under way at once is chance


def test_no_document_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no document"):
        write([], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failure_half_way_leaves_no_token_file(tmp_path: Path) -> None:
    def broken() -> Iterator[Document]:
        yield from documents(["x" * 3_000_000] * 3)
        raise ValueError("the reader failed")

    with pytest.raises(ValueError, match="the reader failed"):
        write_shards(broken(), Characters(), tmp_path, progress=SilentProgress())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tokens.bin", "documents.npy"])
def test_damage_is_noticed_and_named(tmp_path: Path, name: str) -> None:
    write(TEXTS, tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-1])
    with pytest.raises(DataError, match=name):
        TokenShards.open(tmp_path, verify=False)
    (tmp_path / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError, match=name):
        TokenShards.open(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=name):
        TokenShards.open(tmp_path)


def test_an_unfinished_folder_is_refused(tmp_path: Path) -> None:
    write(TEXTS, tmp_path)
    (tmp_path / "shards.json").unlink()
    with pytest.raises(DataError, match=r"shards\.json does not exist"):
        TokenShards.open(tmp_path)
