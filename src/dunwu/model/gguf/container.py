"""The GGUF container: a header of typed keys, a table of tensors, and their data, aligned. Written in version 3, read in 2 and 3.

Own code rather than the `gguf` package's reader and writer: theirs trusts the counts and lengths that a file claims, and keeps
all tensors until the file is written. Its numerics (quantising and dequantising blocks) are used as they are.
Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dunwu.core.errors import ModelError
from dunwu.core.files import atomic_write

MAGIC = b"GGUF"
VERSION = 3
READABLE_VERSIONS = (2, 3)
ALIGNMENT = 32
MAX_DIMENSIONS = 4
_KEY_BYTES, _TENSOR_BYTES = 13, 32  # the least that a key, or a tensor's entry, takes in the header

Kind = Literal["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "array", "u64", "i64", "f64"]
_KINDS: tuple[Kind, ...] = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "array", "u64", "i64", "f64")
_FORMATS: Mapping[str, str] = {
    "u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "?", "u64": "Q", "i64": "q",
    "f64": "d",
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A value with its type in the file. `kind` of a list is that of its items."""

    kind: Kind
    value: Any


@dataclass(frozen=True)
class BlockType:
    """How a tensor's numbers are stored: `size` bytes for each block of `length` numbers along the last axis."""

    number: int
    name: str
    length: int
    size: int


def _block_types() -> dict[int, BlockType]:
    # Sizes as in ggml's `type_traits` (ggml/src/ggml.c); those that no longer exist have no number here.
    sizes = {
        "F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22), "Q5_1": (7, 32, 24),
        "Q8_0": (8, 32, 34), "Q2_K": (10, 256, 84), "Q3_K": (11, 256, 110), "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176),
        "Q6_K": (14, 256, 210), "IQ2_XXS": (16, 256, 66), "IQ2_XS": (17, 256, 74), "IQ3_XXS": (18, 256, 98),
        "IQ1_S": (19, 256, 50), "IQ4_NL": (20, 32, 18), "IQ3_S": (21, 256, 110), "IQ2_S": (22, 256, 82), "IQ4_XS": (23, 256, 136),
        "F64": (28, 1, 8), "IQ1_M": (29, 256, 56), "BF16": (30, 1, 2), "TQ1_0": (34, 256, 54), "TQ2_0": (35, 256, 66),
        "MXFP4": (39, 32, 17),
    }  # fmt: skip
    return {number: BlockType(number, name, length, size) for name, (number, length, size) in sizes.items()}


BLOCK_TYPES: Mapping[int, BlockType] = _block_types()
BLOCK_TYPE: Mapping[str, BlockType] = {block.name: block for block in BLOCK_TYPES.values()}


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in the table; `shape` has the last axis last, as in torch (the file has it first)."""

    name: str
    shape: tuple[int, ...]
    type: BlockType
    offset: int = 0

    @property
    def size(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) // self.type.length * self.type.size

    def rows_shape(self) -> tuple[int, ...]:
        """The shape of its bytes: the last axis counts bytes instead of numbers."""
        return (*self.shape[:-1], self.shape[-1] // self.type.length * self.type.size)


class Container:
    """A GGUF file that was read: `metadata` as plain Python values, `tensors` by name, data mapped and not copied.

    Raises ModelError when the file is no GGUF, was cut short, or claims more than it holds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.bytes: npt.NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
        except FileNotFoundError as error:
            raise ModelError(f"{path} does not exist; give a .gguf file") from error
        except (ValueError, OSError) as error:
            raise ModelError(f"{path} cannot be read as GGUF ({error}); give a .gguf file") from error
        cursor = _Cursor(path, self.bytes)
        if cursor.raw(4) != MAGIC:
            raise ModelError(f"{path} does not begin with {MAGIC.decode()}; it is not a GGUF file")
        self.version = cursor.scalar("u32")
        if self.version not in READABLE_VERSIONS:
            raise ModelError(
                f"{path} is GGUF version {self.version} (or of a big-endian machine); dunwu reads versions 2 and 3, "
                "little-endian: convert it anew with today's llama.cpp"
            )
        tensor_count, key_count = cursor.scalar("u64"), cursor.scalar("u64")
        cursor.require(
            key_count * _KEY_BYTES + tensor_count * _TENSOR_BYTES, f"{key_count} keys, {tensor_count} tensors"
        )
        self.metadata: dict[str, Any] = dict(cursor.key() for _ in range(key_count))
        entries = [cursor.entry() for _ in range(tensor_count)]
        self._start = _aligned(cursor.at, self._alignment())
        self.tensors: dict[str, TensorEntry] = {}
        for entry in entries:
            self._admit(entry)

    def _alignment(self) -> int:
        alignment = self.metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ModelError(f"{self.path} has general.alignment={alignment!r}; it must be a power of two")
        return alignment

    def _admit(self, entry: TensorEntry) -> None:
        if entry.name in self.tensors:
            raise ModelError(f"{self.path} names the tensor {entry.name!r} twice; the file is damaged")
        if entry.shape[-1] % entry.type.length:
            raise ModelError(
                f"{entry.name} in {self.path} has rows of {entry.shape[-1]}, which {entry.type.name} cannot hold: "
                f"its blocks have {entry.type.length}"
            )
        end = self._start + entry.offset + entry.size
        if end > len(self.bytes):
            raise ModelError(
                f"{entry.name} in {self.path} would end at byte {end} of a file of {len(self.bytes)}; "
                "it was cut short or damaged: fetch it again"
            )
        self.tensors[entry.name] = entry

    def data(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor, [..., bytes of a row], mapped from the file."""
        entry = self.tensors[name]
        start = self._start + entry.offset
        return self.bytes[start : start + entry.size].reshape(entry.rows_shape())


class _Cursor:
    """Reads a header from the front, and believes no length that the file cannot hold."""

    def __init__(self, path: Path, data: npt.NDArray[np.uint8]) -> None:
        self.path, self._data, self.at = path, data, 0

    def require(self, size: int, what: str) -> None:
        if self.at + size > len(self._data):
            raise ModelError(
                f"{self.path} claims {what} at byte {self.at}, {size} bytes or more, but has only {len(self._data)} in all; "
                "it was cut short or damaged: fetch it again"
            )

    def raw(self, size: int) -> bytes:
        self.require(size, "a value")
        self.at += size
        return self._data[self.at - size : self.at].tobytes()

    def scalar(self, kind: str) -> Any:
        layout = "<" + _FORMATS[kind]
        return struct.unpack(layout, self.raw(struct.calcsize(layout)))[0]

    def text(self) -> str:
        length = self.scalar("u64")
        self.require(length, f"a text of {length} bytes")
        return self.raw(length).decode("utf-8", "surrogateescape")

    def kind(self) -> Kind:
        number = self.scalar("u32")
        if number >= len(_KINDS):
            raise ModelError(f"{self.path} has a value of type {number} at byte {self.at}; GGUF knows 0 to 12")
        return _KINDS[number]

    def key(self) -> tuple[str, Any]:
        name, kind = self.text(), self.kind()
        if kind == "array":
            return name, self.array(name)
        return name, self.text() if kind == "str" else self.scalar(kind)

    def array(self, name: str) -> list[Any]:
        kind, length = self.kind(), self.scalar("u64")
        if kind == "array":
            raise ModelError(
                f"{self.path} has lists within the list {name!r}, which no model needs; the file is damaged"
            )
        if kind == "str":
            self.require(8 * length, f"{length} texts in {name!r}")
            return [self.text() for _ in range(length)]
        size = struct.calcsize("<" + _FORMATS[kind])
        self.require(size * length, f"{length} numbers in {name!r}")
        layout = np.dtype("<u1" if kind == "bool" else "<" + _FORMATS[kind].replace("B", "u1").replace("b", "i1"))
        values = np.frombuffer(self.raw(size * length), dtype=layout)
        return values.astype(np.bool_).tolist() if kind == "bool" else values.tolist()

    def entry(self) -> TensorEntry:
        name, dimensions = self.text(), self.scalar("u32")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise ModelError(f"{name!r} in {self.path} has {dimensions} dimensions; GGUF allows 1 to {MAX_DIMENSIONS}")
        shape = tuple(self.scalar("u64") for _ in range(dimensions))[::-1]
        number, offset = self.scalar("u32"), self.scalar("u64")
        if number not in BLOCK_TYPES:
            raise ModelError(
                f"{name!r} in {self.path} has the tensor type {number}, which dunwu does not know; convert the model to "
                "F16, Q8_0 or a k-quant"
            )
        if 0 in shape:
            raise ModelError(f"{name!r} in {self.path} has the shape {shape}; no axis may be empty")
        return TensorEntry(name, shape, BLOCK_TYPES[number], offset)


def write_container(
    path: Path,
    metadata: Mapping[str, Value],
    entries: Sequence[TensorEntry],
    data: Callable[[TensorEntry], Iterable[npt.NDArray[Any]]],
) -> int:
    """Write a GGUF file, atomically; `data` gives a tensor's bytes in parts, asked for one tensor at a time, in order.

    Returns the file's size in bytes. Raises DiskError when the disk is full or may not be written.
    """
    header = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(entries), len(metadata)))
    for name, value in metadata.items():
        header += _text(name) + _encoded(value)
    offset = 0
    for entry in entries:
        header += _text(entry.name) + struct.pack("<I", len(entry.shape))
        header += struct.pack(f"<{len(entry.shape)}Q", *reversed(entry.shape)) + struct.pack(
            "<IQ", entry.type.number, offset
        )
        offset = _aligned(offset + entry.size, ALIGNMENT)
    header += bytes(-len(header) % ALIGNMENT)
    with atomic_write(path) as file:
        file.write(header)
        for entry in entries:
            written = 0
            for part in data(entry):
                written += file.write(np.ascontiguousarray(part).data.cast("B"))
            assert written == entry.size, (entry, written)
            file.write(bytes(-written % ALIGNMENT))
    return len(header) + offset


def _aligned(place: int, alignment: int) -> int:
    return -(-place // alignment) * alignment


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(encoded)) + encoded


def _encoded(value: Value) -> bytes:
    number = struct.pack("<I", _KINDS.index(value.kind))
    if not isinstance(value.value, list | tuple | np.ndarray):
        return number + _item(value.kind, value.value)
    items = list(value.value)
    front = struct.pack("<I", _KINDS.index("array")) + number + struct.pack("<Q", len(items))
    if value.kind == "str":
        return front + b"".join(_text(item) for item in items)
    return front + struct.pack(f"<{len(items)}{_FORMATS[value.kind]}", *items)


def _item(kind: Kind, value: Any) -> bytes:
    return _text(value) if kind == "str" else struct.pack("<" + _FORMATS[kind], value)
