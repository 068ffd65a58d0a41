"""One safetensors file: its header read with distrust, its tensors as views of the file, and the same form written.

The form is that of https://huggingface.co/docs/safetensors: eight bytes with the header's length, little-endian; a JSON
header with dtype, shape and place of each tensor; their bytes one after another, without gaps. Nothing in it is ever run.
"""

import json
import math
import mmap
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from dunwu.core.errors import ModelError
from dunwu.core.files import atomic_write

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of a file, as its header describes it; `start` and `end` are bytes from the head of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class SafetensorsFile:
    """A file whose header was read and checked; tensors are views of a private mapping of it.

    Private: writing to a view copies its page and never reaches the file. The views keep the mapping, and through it the file
    that was opened, even when another is renamed over it or it is deleted. They do NOT survive a file that is truncated or
    overwritten in place: replace a model's files, as `atomic_write` does, and never write into them.

    Raises ModelError naming the file when it is missing, cut short, or says of itself what cannot be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.entries, self.metadata = _read_header(file, path)
                self._mapping = _map(file, path)
        except FileNotFoundError as error:
            raise ModelError(f"{path} does not exist; give the folder of a finished model") from error
        except OSError as error:
            raise ModelError(f"{path} cannot be read ({error.strerror}); check the file and its permissions") from error

    def view(self, name: str) -> Tensor:
        """The tensor without a copy; a copy where its place in the file does not suit its dtype."""
        entry = self.entries[name]
        count = math.prod(entry.shape)
        if count == 0:
            return torch.empty(entry.shape, dtype=entry.dtype)
        if entry.start % entry.dtype.itemsize:
            moved = bytearray(self._mapping[entry.start : entry.end])
            return torch.frombuffer(moved, dtype=entry.dtype).view(entry.shape)
        return torch.frombuffer(self._mapping, dtype=entry.dtype, count=count, offset=entry.start).view(entry.shape)

    def forget(self, name: str) -> None:
        """Let go of the tensor's pages: it was copied, and its bytes shall not count as held. What lies beside it is read
        anew when it is looked at. Call it only while nothing of the file has been written to."""
        if not hasattr(mmap, "MADV_DONTNEED"):  # Windows
            return
        entry = self.entries[name]
        start = entry.start // mmap.PAGESIZE * mmap.PAGESIZE
        if entry.end > entry.start:
            self._mapping.madvise(mmap.MADV_DONTNEED, start, entry.end - start)


def _map(file: IO[bytes], path: Path) -> mmap.mmap:
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be mapped into memory ({error.strerror}); this machine may have too little for the model"
        ) from error


def _read_header(file: IO[bytes], path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    size = file.seek(0, 2)
    file.seek(0)
    if size < _LENGTH.size:
        raise _damaged(path, f"it has {size} bytes, and a header alone takes more")
    (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
    data_start = _LENGTH.size + length
    if length > MAX_HEADER_BYTES or data_start > size:
        raise _damaged(
            path, f"its header claims {length} bytes, the file has {size} and a header at most {MAX_HEADER_BYTES}"
        )
    try:
        header = json.loads(file.read(length), object_pairs_hook=_no_name_twice)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not an object")
    metadata = header.pop("__metadata__", {})
    entries = {name: _entry(name, value, data_start, path) for name, value in header.items()}
    _check_places(entries, data_start, size, path)
    return entries, metadata if isinstance(metadata, dict) else {}


def _no_name_twice(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name stands in it twice")
    return values


def _entry(name: str, value: Any, data_start: int, path: Path) -> Entry:
    match value:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]}:
            pass
        case _:
            raise _damaged(path, f"{name!r} is not described by dtype, shape and data_offsets")
    if dtype not in DTYPES:
        raise ModelError(f"{path}: {name!r} has dtype {dtype!r}; dunwu reads {', '.join(DTYPES)}: take other weights")
    if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in shape):
        raise _damaged(path, f"{name!r} has shape {shape}, and sizes are whole numbers from 0")
    wanted = math.prod(shape) * DTYPES[dtype].itemsize
    if start < 0 or end - start != wanted:
        raise _damaged(path, f"{name!r} of {dtype} {shape} takes {wanted} bytes, its data_offsets are [{start}, {end}]")
    return Entry(dtype=DTYPES[dtype], shape=tuple(shape), start=data_start + start, end=data_start + end)


def _check_places(entries: Mapping[str, Entry], data_start: int, size: int, path: Path) -> None:
    """Tensors follow one another without gap or overlap and end where the file ends, so that no byte is unaccounted for."""
    end = data_start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.end > size:
            raise _damaged(path, f"{name!r} would end at byte {entry.end}, and the file has {size}")
        if entry.start != end:
            kind = "overlaps the tensor before it" if entry.start < end else "leaves a gap before it"
            raise _damaged(path, f"{name!r} {kind}: it starts at byte {entry.start} where {end} is next")
        end = entry.end
    if end != size:
        raise _damaged(path, f"its tensors end at byte {end}, and the file has {size}")


def _damaged(path: Path, what: str) -> ModelError:
    return ModelError(
        f"{path} cannot be read as safetensors: {what}; it may have been cut short or changed: fetch it again"
    )


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A tensor to be written: what the header says of it, and its values, which are asked for only when their turn comes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    values: Iterable[Tensor]

    @property
    def bytes(self) -> int:
        """Its size on disk."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_file(path: Path, tensors: Mapping[str, Outgoing], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, atomically; no more than one tensor is ever copied.

    Raises DiskError when the disk is full or may not be written.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.bytes
        header[name] = {"dtype": _dtype_name(name, tensor), "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with atomic_write(path) as file:
        file.write(_LENGTH.pack(len(encoded)) + encoded)
        for name, tensor in tensors.items():
            written = sum(_write_values(file, values) for values in tensor.values)
            assert written == tensor.bytes, name


def _dtype_name(name: str, tensor: Outgoing) -> str:
    if tensor.dtype not in _DTYPE_NAMES:
        raise ModelError(f"{name} is {tensor.dtype}, which safetensors cannot hold; use one of {', '.join(DTYPES)}")
    return _DTYPE_NAMES[tensor.dtype]


def _write_values(file: IO[bytes], values: Tensor) -> int:
    flat = values.detach().to("cpu").contiguous().reshape(-1)
    file.write(flat.view(torch.uint8).numpy().data)
    return flat.numel() * flat.element_size()
