"""gzip and Zstandard, decompressed in pieces of bounded size; what is cut off or far too repetitive is an error."""

import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from worker.rows.readers.base import FileError, ReadLimits

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
GZIP_WINDOW = 16 + zlib.MAX_WBITS
"""zlib's way to say that a gzip header comes first."""
PIECE_BYTES = 1 << 18
ZSTD_INPUT_BYTES = 1 << 10
"""zstandard gives out all that a piece of input becomes: at most 128 KiB for four bytes of it."""
ZSTD_WINDOW_BYTES = 1 << 27
"""What a frame may ask to remember: as much as `zstd --long` does."""


def open_compressed(path: Path, limits: ReadLimits) -> BinaryIO | None:
    """The decompressed bytes, None if the file is of neither kind; reading them may raise FileError."""
    with path.open("rb") as file:
        magic = file.read(4)
    pieces = next((pieces for start, pieces in PIECES.items() if magic.startswith(start)), None)
    if pieces is None:
        return None
    # The buffer is what takes care of lines.
    return io.BufferedReader(_Pieces(path, pieces, limits), PIECE_BYTES)


class _Pieces(io.RawIOBase):
    def __init__(self, path: Path, pieces: Callable[[BinaryIO], Iterator[bytes]], limits: ReadLimits) -> None:
        self._file = path.open("rb")
        self._pieces = pieces(self._file)
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


def _gzip_pieces(file: BinaryIO) -> Iterator[bytes]:
    member, data = zlib.decompressobj(GZIP_WINDOW), b""
    while True:
        data = data or file.read(PIECE_BYTES)
        try:
            piece = member.decompress(data, PIECE_BYTES)
        except zlib.error as error:
            raise _damaged(error) from None
        if piece:
            yield piece
        elif not data and not member.eof:
            raise _cut_off()
        data = member.unconsumed_tail
        if member.eof:
            # Several members are one text; what pads the last is zeros.
            data = (member.unused_data or file.read(PIECE_BYTES)).lstrip(b"\0")
            if not data:
                return
            member = zlib.decompressobj(GZIP_WINDOW)


def _zstd_pieces(file: BinaryIO) -> Iterator[bytes]:
    engine = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
    data = file.read(ZSTD_INPUT_BYTES)
    while data:  # one frame after the other
        frame = engine.decompressobj()
        while not frame.eof:
            if not data:
                raise _cut_off()
            try:
                piece = frame.decompress(data)
            except zstandard.ZstdError as error:
                raise _damaged(error) from None
            if piece:
                yield piece
            data = frame.unused_data if frame.eof else file.read(ZSTD_INPUT_BYTES)
        data = data or file.read(ZSTD_INPUT_BYTES)


def _cut_off() -> FileError:
    return FileError("is cut off: its compressed data ends too early", code="cut_off")


def _damaged(error: Exception) -> FileError:
    return FileError(f"cannot be decompressed: {error}", code="damaged")


PIECES: dict[bytes, Callable[[BinaryIO], Iterator[bytes]]] = {GZIP: _gzip_pieces, ZSTD: _zstd_pieces}
