"""gzip and Zstandard, decompressed in chunks of bounded size. Truncated data and suspicious ratios are errors."""

import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from worker.rows.readers.base import FileError, ReadLimits

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
GZIP_WINDOW = 16 + zlib.MAX_WBITS
"""A value of zlib's `wbits` that makes it expect a gzip header."""
CHUNK_BYTES = 1 << 18
ZSTD_INPUT_BYTES = 1 << 10
"""Number of compressed bytes given to zstandard at once. It is small, because four bytes can expand to 128 KiB, and
zstandard holds the whole output in memory."""
ZSTD_WINDOW_BYTES = 1 << 27
"""Largest accepted window of a frame: the window of `zstd --long`."""


def open_compressed(path: Path, limits: ReadLimits) -> BinaryIO | None:
    """Return the decompressed bytes, or None if the file is not compressed. Reading them may raise FileError."""
    with path.open("rb") as file:
        magic = file.read(4)
    chunks = next((chunks for start, chunks in DECOMPRESSORS.items() if magic.startswith(start)), None)
    if chunks is None:
        return None
    # The buffer provides `readline`.
    return io.BufferedReader(_DecompressedFile(path, chunks, limits), CHUNK_BYTES)


class _DecompressedFile(io.RawIOBase):
    def __init__(self, path: Path, chunks: Callable[[BinaryIO], Iterator[bytes]], limits: ReadLimits) -> None:
        self._file = path.open("rb")
        self._pieces = chunks(self._file)
        self._limits = limits
        self._file_bytes, self._bytes_out = path.stat().st_size, 0
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._ready:
            self._ready = memoryview(next(self._pieces, b""))
            self._bytes_out += len(self._ready)
            self._limits.check_growth(self._bytes_out, self._file_bytes)
        target = memoryview(buffer)
        length = min(len(target), len(self._ready))
        target[:length], self._ready = self._ready[:length], self._ready[length:]
        return length

    def close(self) -> None:
        self._file.close()
        super().close()


def _gzip_chunks(file: BinaryIO) -> Iterator[bytes]:
    member, data = zlib.decompressobj(GZIP_WINDOW), b""
    while True:
        data = data or file.read(CHUNK_BYTES)
        try:
            chunk = member.decompress(data, CHUNK_BYTES)
        except zlib.error as error:
            raise _damaged(error) from None
        if chunk:
            yield chunk
        elif not data and not member.eof:
            raise _incomplete()
        data = member.unconsumed_tail
        if member.eof:
            # A file may have several members, which together are one text. Zeros may follow the last member.
            data = (member.unused_data or file.read(CHUNK_BYTES)).lstrip(b"\0")
            if not data:
                return
            member = zlib.decompressobj(GZIP_WINDOW)


def _zstd_chunks(file: BinaryIO) -> Iterator[bytes]:
    engine = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
    data = file.read(ZSTD_INPUT_BYTES)
    while data:  # one frame after the other
        frame = engine.decompressobj()
        while not frame.eof:
            if not data:
                raise _incomplete()
            try:
                chunk = frame.decompress(data)
            except zstandard.ZstdError as error:
                raise _damaged(error) from None
            if chunk:
                yield chunk
            data = frame.unused_data if frame.eof else file.read(ZSTD_INPUT_BYTES)
        data = data or file.read(ZSTD_INPUT_BYTES)


def _incomplete() -> FileError:
    return FileError("is incomplete: its compressed data ends too early", code="cut_off")


def _damaged(error: Exception) -> FileError:
    return FileError(f"cannot be decompressed: {error}", code="damaged")


DECOMPRESSORS: dict[bytes, Callable[[BinaryIO], Iterator[bytes]]] = {GZIP: _gzip_chunks, ZSTD: _zstd_chunks}
