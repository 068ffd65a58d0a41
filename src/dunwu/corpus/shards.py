"""Documents → one long file of token ids on disk, read back memory-mapped.

`tokens.bin`     little-endian uint16 (uint32 above 65,536 entries); each document is followed by the end-of-text id, and
                 begins with the ids that the model wants before a text, where it wants any
`documents.npy`  int64 [documents], where each document ends in `tokens.bin` (its end-of-text id included)
`shards.json`    counts and checksums, written last: a folder without it is not finished
"""

import hashlib
import io
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from dunwu.core.errors import DataError
from dunwu.core.files import atomic_write, disk_errors, read_json, sha256_file, write_json
from dunwu.core.progress import Progress
from dunwu.core.records import Document

TOKENS, DOCUMENTS, FACTS = "tokens.bin", "documents.npy", "shards.json"
PIECE_CHARACTERS = 1_000_000  # a longer text is encoded in pieces, so that one endless line does not fill the memory
CHUNK_CHARACTERS = 1_000_000  # text handed to one worker at a time
NPY_HEADER_BYTES = 128  # numpy pads the header of a one-dimensional array to this


class Encoder(Protocol):
    """What is needed of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def eos_id(self) -> int: ...
    def encode_batch(self, texts: Sequence[str]) -> Sequence[npt.NDArray[np.int32]]: ...


@dataclass(frozen=True, kw_only=True)
class ShardFacts:
    """What the token files hold. `tokens` counts the end-of-text ids; bytes are UTF-8; `sha256` is by file name."""

    documents: int
    tokens: int
    text_bytes: int
    vocab_size: int
    eos_id: int
    dtype: str
    start_ids: tuple[int, ...] = ()
    text_bytes_by_language: dict[str, int] = field(default_factory=dict)
    tokens_by_language: dict[str, int] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    """One chunk of documents: each one's ids, its language and the bytes of its text."""

    ids: list[npt.NDArray[Any]]
    languages: list[str]
    text_bytes: list[int]


class _Writer:
    """Appends documents to the two files, hashing and counting on the way; holds no more than one document."""

    def __init__(
        self, tokens: IO[bytes], documents: IO[bytes], dtype: str, eos_id: int, start_ids: Sequence[int]
    ) -> None:
        self._tokens, self._documents, self._dtype = tokens, documents, np.dtype(dtype).newbyteorder("<")
        self._start = np.array(start_ids, self._dtype).tobytes()
        self._eos = np.array([eos_id], self._dtype).tobytes()
        self._around = len(start_ids) + 1
        self._tokens_sha = hashlib.sha256()
        self.documents_written = self.tokens_written = self.text_bytes = 0
        self.text_bytes_by_language: dict[str, int] = {}
        self.tokens_by_language: dict[str, int] = {}
        documents.write(b"\0" * NPY_HEADER_BYTES)

    def add(self, chunk: _Encoded) -> None:
        """Append a chunk's documents, each with its end-of-text id."""
        for ids, language, text_bytes in zip(chunk.ids, chunk.languages, chunk.text_bytes, strict=True):
            raw = self._start + ids.astype(self._dtype).tobytes() + self._eos
            self._tokens.write(raw)
            self._tokens_sha.update(raw)
            self.tokens_written += len(ids) + self._around
            self.documents_written += 1
            self.text_bytes += text_bytes
            self._documents.write(np.int64(self.tokens_written).astype("<i8").tobytes())
            by_bytes, by_tokens = self.text_bytes_by_language, self.tokens_by_language
            by_bytes[language] = by_bytes.get(language, 0) + text_bytes
            by_tokens[language] = by_tokens.get(language, 0) + len(ids) + self._around

    def finish(self) -> str:
        """Write the header that was left open; returns the SHA-256 of the tokens."""
        header = io.BytesIO()
        facts = {"descr": "<i8", "fortran_order": False, "shape": (self.documents_written,)}
        np.lib.format.write_array_header_1_0(header, facts)
        assert header.tell() == NPY_HEADER_BYTES
        self._documents.seek(0)
        self._documents.write(header.getvalue())
        return self._tokens_sha.hexdigest()


def write_shards(
    documents: Iterable[Document],
    tokenizer: Encoder,
    out: Path,
    *,
    progress: Progress,
    workers: int = 1,
    start_ids: Sequence[int] = (),
) -> ShardFacts:
    """Encode `documents` in their order into the folder `out`, holding a few chunks in memory whatever their number.

    `start_ids` are put before each. `workers` threads encode (the tokenizer works outside Python's lock); the files are the same for any number.
    Raises DataError when there is no document, DiskError when the disk is full.
    """
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / FACTS).unlink(missing_ok=True)
    with atomic_write(out / TOKENS) as tokens_file, atomic_write(out / DOCUMENTS) as documents_file:
        writer = _Writer(tokens_file, documents_file, dtype, tokenizer.eos_id, start_ids)
        for chunk in _encoded_chunks(documents, tokenizer, workers):
            writer.add(chunk)
            progress.update(writer.text_bytes, None, documents=writer.documents_written, tokens=writer.tokens_written)
        if writer.documents_written == 0:
            raise DataError(f"no document to encode into {out}; training needs at least one: add text to the corpus")
        tokens_sha = writer.finish()
    facts = ShardFacts(
        documents=writer.documents_written,
        tokens=writer.tokens_written,
        text_bytes=writer.text_bytes,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        dtype=dtype,
        start_ids=tuple(start_ids),
        text_bytes_by_language=writer.text_bytes_by_language,
        tokens_by_language=writer.tokens_by_language,
        sha256={TOKENS: tokens_sha, DOCUMENTS: sha256_file(out / DOCUMENTS)},
    )
    write_json(out / FACTS, asdict(facts))
    return facts


def _encoded_chunks(documents: Iterable[Document], tokenizer: Encoder, workers: int) -> Iterator[_Encoded]:
    """Chunks in their order; at most `workers + 1` are under way."""
    chunks = _chunks(documents)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting: deque[Future[_Encoded]] = deque()
        for chunk in islice(chunks, workers + 1):
            waiting.append(pool.submit(_encode, chunk, tokenizer))
        while waiting:
            yield waiting.popleft().result()
            for chunk in islice(chunks, 1):
                waiting.append(pool.submit(_encode, chunk, tokenizer))


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    characters = 0
    for document in documents:
        chunk.append(document)
        characters += len(document.text)
        if characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _encode(chunk: Sequence[Document], tokenizer: Encoder) -> _Encoded:
    pieces = [list(_pieces(document.text)) for document in chunk]
    encoded = iter(tokenizer.encode_batch([piece for group in pieces for piece in group]))
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    return _Encoded(
        ids=[np.concatenate([next(encoded).astype(dtype) for _ in group]) for group in pieces],
        languages=[document.language for document in chunk],
        text_bytes=[sum(len(piece.encode("utf-8")) for piece in group) for group in pieces],
    )


def _pieces(text: str) -> Iterator[str]:
    """`text` itself, or an endless one in pieces cut before a newline or a space where there is one."""
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        end = start + PIECE_CHARACTERS
        middle = start + PIECE_CHARACTERS // 2
        cut = max(text.rfind("\n", middle, end), text.rfind(" ", middle, end))
        end = cut if cut > start else end
        yield text[start:end]
        start = end
    yield text[start:]


class TokenShards:
    """The token files of one corpus, memory-mapped: `tokens` [tokens] and `document_ends` [documents]."""

    def __init__(self, folder: Path, facts: ShardFacts) -> None:
        self.folder, self.facts = folder, facts
        self.tokens: npt.NDArray[Any] = np.memmap(folder / TOKENS, np.dtype(facts.dtype).newbyteorder("<"), mode="r")
        self.document_ends: npt.NDArray[np.int64] = np.load(folder / DOCUMENTS, mmap_mode="r", allow_pickle=False)

    @classmethod
    def open(cls, folder: Path, *, verify: bool = True) -> "TokenShards":
        """Open what `write_shards` wrote, comparing the checksums unless `verify` is off (sizes are always compared).

        Raises DataError when a file is missing, cut short or altered.
        """
        try:
            facts = ShardFacts(**read_json(folder / FACTS))
        except TypeError as error:
            raise DataError(f"{folder / FACTS} does not describe token files ({error}); make them again") from error
        sizes = {
            TOKENS: facts.tokens * np.dtype(facts.dtype).itemsize,
            DOCUMENTS: NPY_HEADER_BYTES + 8 * facts.documents,
        }
        for name, size_bytes in sizes.items():
            _check(folder / name, size_bytes, facts.sha256.get(name, "") if verify else None)
        return cls(folder, facts)

    def __len__(self) -> int:
        return self.facts.tokens

    @property
    def eos_id(self) -> int:
        """The id that ends every document, and stands nowhere else."""
        return self.facts.eos_id

    @property
    def begin_id(self) -> int:
        """The id at which attention is cut: the first that the model wants before a text, else the end of the one before."""
        return self.facts.start_ids[0] if self.facts.start_ids else self.facts.eos_id


def _check(path: Path, size_bytes: int, sha256: str | None) -> None:
    remedy = "remove its folder and run the same command again"
    if not path.is_file():
        raise DataError(f"{path} is missing; {remedy}")
    if path.stat().st_size != size_bytes:
        raise DataError(f"{path} has {path.stat().st_size} bytes where {size_bytes} were written; {remedy}")
    if sha256 is not None and sha256_file(path) != sha256:
        raise DataError(f"{path} was altered after it was written (its SHA-256 differs); {remedy}")
