"""Zstandard read as a stream that notices when the end is missing, which the library's own stream does not."""

import io
from collections.abc import Iterator
from typing import IO, Any

import zstandard

BLOCK_BYTES = 1 << 20
_WINDOW_BYTES = 1 << 27


def unzstd_blocks(raw: IO[bytes], *, step_bytes: int = 1 << 10) -> Iterator[bytes]:
    """The content of all frames, in blocks of about a megabyte.

    Packed bytes are fed `step_bytes` at a time, as a kilobyte of a hostile file may unpack to 32 MB. Raises EOFError
    when the file is cut short, zstandard.ZstdError when it is damaged.
    """
    maker = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
    frame = None
    waiting: list[bytes] = []
    size = 0
    while packed := raw.read(BLOCK_BYTES):
        for start in range(0, len(packed), step_bytes):
            data = packed[start : start + step_bytes]
            while data:
                frame = frame or maker.decompressobj()
                waiting.append(frame.decompress(data))
                size += len(waiting[-1])
                data, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
            if size >= BLOCK_BYTES:
                yield b"".join(waiting)
                waiting, size = [], 0
    if frame is not None:
        raise EOFError("the last frame has no end")
    if size:
        yield b"".join(waiting)


class UnzstdStream(io.RawIOBase):
    """The same as a file to read from. Closes `raw` with itself."""

    def __init__(self, raw: IO[bytes]) -> None:
        super().__init__()
        self._raw = raw
        self._blocks = unzstd_blocks(raw)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._blocks, b""))
        taken = self._rest[: len(buffer)]
        self._rest = self._rest[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def close(self) -> None:
        self._raw.close()
        super().close()
