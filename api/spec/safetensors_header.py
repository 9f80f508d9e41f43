"""Reads the header of a safetensors file without torch: the type, shape and position of each tensor.

Attune parses the header itself, because the safetensors library has no call that returns the offsets, which a memory
map needs, and because the command line is installed without that library. Format: 8 bytes with the header's length
(little-endian), the header as JSON, then the tensors' bytes.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

MAX_HEADER_BYTES = 100_000_000
"""Maximum length of the header, the same as in the safetensors library."""
ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "U64": 8,
    "I32": 4,
    "U32": 4,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes of one value, by safetensors' name of the data type. For types that are not listed, such as packed 4-bit
floats, the size of a tensor is not checked."""


class HeaderError(ValueError):
    """The file is not a safetensors file, or is cut short or damaged. The message completes a sentence such as "FILE
    cannot be read: "."""


@dataclass(frozen=True)
class TensorEntry:
    dtype: str
    """Data type by safetensors' name, such as F32 or BF16."""
    shape: tuple[int, ...]
    begin: int
    """Offset of the first byte in the file."""
    end: int


@dataclass(frozen=True)
class Header:
    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Return the header of a safetensors file. Raises HeaderError if the file has no valid header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or header_bytes > min(MAX_HEADER_BYTES, size - 8):
            raise HeaderError("the file ends within its header")
        text = file.read(header_bytes)
    try:
        entries = json.loads(text)
        metadata = {str(name): str(value) for name, value in entries.pop("__metadata__", {}).items()}
        tensors = {name: _entry(entry, 8 + header_bytes) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise HeaderError("its header is not a valid safetensors header") from None
    for name, entry in tensors.items():
        _require_fit(name, entry, first=8 + header_bytes, size=size)
    return Header(tensors, metadata)


def _entry(entry: dict[str, object], data: int) -> TensorEntry:
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list):
        raise TypeError
    begin, end = map(int, offsets)
    if any(length < 0 for length in shape):
        raise ValueError
    return TensorEntry(str(entry["dtype"]), tuple(map(int, shape)), data + begin, data + end)


def _require_fit(name: str, entry: TensorEntry, *, first: int, size: int) -> None:
    item_bytes = ITEM_BYTES.get(entry.dtype)
    length = entry.end - entry.begin
    outside = not first <= entry.begin <= entry.end <= size
    if outside or (item_bytes is not None and length != math.prod(entry.shape) * item_bytes):
        raise HeaderError(f"the bytes of {name} do not match its shape, or lie outside the file")
