"""Detection of files in unsupported formats. The error says what the file is and what to do about it."""

import json
from codecs import BOM_UTF8

from worker.rows.readers.base import FileError

ADVICE = "give JSON lines in UTF-8, a JSON array, CSV with a header, or Parquet"
DECOMPRESS = "decompress it, or compress it with gzip or Zstandard"
BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs.github.com/",
        "is a Git LFS pointer, not the file that it points to",
        "run `git lfs pull`",
    ),
    (b"PK\x03\x04", "is a ZIP archive or a spreadsheet (.xlsx)", ADVICE),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old spreadsheet or document (.xls, .doc)", "save it as CSV in UTF-8"),
    (b"ARROW1", "is in Arrow format", "write it with `to_parquet` or `to_json`"),
    (b"\xff\xff\xff\xff", "is an Arrow stream", "write it with `to_parquet` or `to_json`"),
    *((b"BZh%d1AY&SY" % level, "is compressed with bzip2", DECOMPRESS) for level in range(1, 10)),
    (b"\xfd7zXZ\0", "is compressed with xz", DECOMPRESS),
    (b"]\0\0", "is compressed with LZMA", DECOMPRESS),
    (b"\x04\x22\x4d\x18", "is compressed with LZ4", DECOMPRESS),
    (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive", DECOMPRESS),
    (b"Rar!\x1a\x07", "is a RAR archive", DECOMPRESS),
    (b"\xff\xfe", "is UTF-16", "save it in UTF-8"),
    (b"\xfe\xff", "is UTF-16", "save it in UTF-8"),
    (b"%PDF", "is a PDF document", ADVICE),
    (b"{\\rtf", "is a document in Rich Text Format", ADVICE),
    (b"SQLite format 3", "is a database", ADVICE),
    (b"Obj\x01", "is in Avro format", ADVICE),
    (b"\x89HDF", "is in HDF5 format", ADVICE),
    (b"\x93NUMPY", "is a NumPy array", ADVICE),
    (b"\x80\x02", "is a Python pickle", ADVICE),
    (b"\x80\x03", "is a Python pickle", ADVICE),
    (b"\x80\x04", "is a Python pickle", ADVICE),
    (b"\x80\x05", "is a Python pickle", ADVICE),
    (b"GGUF", "is a model in GGUF format, not rows", ADVICE),
    (b"PAR1", "is Parquet within a compressed file", "upload the Parquet file itself"),
    (b"\x1f\x8b", "is compressed twice", "decompress it once"),
    (b"\x28\xb5\x2f\xfd", "is compressed twice", "decompress it once"),
)
TAR = slice(257, 262)
MAX_PROBED_LINES = 3
"""Number of first lines that must all be invalid before the whole file is refused."""


def reject_unsupported(head: bytes) -> None:
    """Raise FileError if the beginning of the file shows that it is in an unsupported format."""
    for magic, what, advice in BEGINNINGS:
        if head.startswith(magic):
            raise _unsupported(what, advice)
    if head[TAR] == b"ustar":
        raise _unsupported("is a tar archive", "upload the files in it one by one")
    text = head.removeprefix(BOM_UTF8).lstrip()
    begin = text[:64].lower()
    if begin.startswith((b"<!doctype", b"<html", b"<head", b"<body")):
        raise _unsupported("is an HTML page, perhaps a server's error page", "download the file itself")
    if begin.startswith(b"<?xml"):
        raise _unsupported("is XML", ADVICE)
    if b"\0" in head[:4] and head[:4].replace(b"\0", b"").startswith((b"{", b"[")):
        raise _unsupported("is UTF-16 or UTF-32", "save it in UTF-8")
    if _is_repr(text):
        raise _unsupported("is in Python's notation, with single quotes, not JSON", "write each row with `json.dumps`")
    _reject_split_rows(text)


def reject_binary(head: bytes) -> None:
    if b"\0" in head:
        raise _unsupported("is not text", ADVICE)


def reject_no_rows(head: bytes) -> None:
    """Raise FileError if a file that is neither an array nor a table has no JSON object in its first lines."""
    lines = [line for line in head.splitlines() if line.strip()][:MAX_PROBED_LINES]
    if lines and not any(line.lstrip().startswith((b"{", BOM_UTF8 + b"{")) for line in lines):
        reject_binary(head)
        raise _unsupported("begins neither with JSON nor with column names, such as prompt,completion", ADVICE)


def _reject_split_rows(text: bytes) -> None:
    """Raise FileError if rows are not on lines of their own."""
    if b"\r" in text.strip() and b"\n" not in text:
        raise _unsupported("has lines that end with a carriage return only", "save it with Unix or Windows line ends")
    first, _, rest = text.partition(b"\n")
    if not first.startswith(b"{") or not rest.strip() or _is_json(first):
        return
    # An object continues on the next line, which would begin with a brace if it were a row.
    if first.strip() == b"{" or _ends_later(text):
        raise _unsupported(
            "has JSON objects over several lines",
            "write each row on its own line, or all rows in a JSON array",
        )


def _is_repr(text: bytes) -> bool:
    begin = text[:256].lstrip(b"[").lstrip()
    return begin.startswith(b"{") and begin[1:].lstrip().startswith((b"'", b"u'")) and b":" in text[:4096]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _ends_later(text: bytes) -> bool:
    """Whether an object begins in the first line and ends in a later one."""
    decoded = text.decode(errors="replace")
    try:
        _, end = json.JSONDecoder().raw_decode(decoded)
    except (ValueError, RecursionError):
        return False
    return "\n" in decoded[:end]


def _unsupported(what: str, advice: str) -> FileError:
    return FileError(f"{what}; {advice}", code="unsupported_container")
