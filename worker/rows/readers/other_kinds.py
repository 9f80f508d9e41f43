"""Files that hold no rows in a form that is read. Each is named, once, with what to do."""

import json

from worker.rows.readers.base import FileError

ADVICE = "give JSON lines in UTF-8, a JSON array, CSV with a header, or Parquet"
DECOMPRESS = "decompress it, or compress it with gzip or Zstandard"
BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs.github.com/", "is a Git LFS pointer, not the file it stands for", "run `git lfs pull`"),
    (b"PK\x03\x04", "is a ZIP archive or a spreadsheet (.xlsx)", ADVICE),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old spreadsheet or document (.xls, .doc)", "save it as CSV in UTF-8"),
    (b"ARROW1", "is in Arrow's own format", "write it with `to_parquet` or `to_json`"),
    (b"\xff\xff\xff\xff", "is a stream in Arrow's own format", "write it with `to_parquet` or `to_json`"),
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
    (b"Obj\x01", "is in Avro's format", ADVICE),
    (b"\x89HDF", "is in HDF5's format", ADVICE),
    (b"\x93NUMPY", "is an array of NumPy", ADVICE),
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
LOOKED_AT = 3
"""Lines at the beginning that may all be wrong before the whole file is said to be of another kind."""


def refuse_other_kinds(head: bytes) -> None:
    """FileError where the beginning of a file shows that it holds no rows."""
    for magic, what, advice in BEGINNINGS:
        if head.startswith(magic):
            raise _refused(what, advice)
    if head[TAR] == b"ustar":
        raise _refused("is a tar archive", "upload the files in it one by one")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    begin = text[:64].lower()
    if begin.startswith((b"<!doctype", b"<html", b"<head", b"<body")):
        raise _refused("is an HTML page, such as a server shows in place of a file", "download the file itself")
    if begin.startswith(b"<?xml"):
        raise _refused("is XML", ADVICE)
    if b"\0" in head[:4] and head[:4].replace(b"\0", b"").startswith((b"{", b"[")):
        raise _refused("is UTF-16 or UTF-32", "save it in UTF-8")
    if _is_repr(text):
        raise _refused("holds Python's notation, with single quotes, not JSON", "write each row with `json.dumps`")
    _refuse_other_lines(text)


def refuse_no_text(head: bytes) -> None:
    if b"\0" in head:
        raise _refused("is not text", ADVICE)


def refuse_no_rows(head: bytes) -> None:
    """FileError where none of the first lines could be a JSON object, in a file that is no array and no table."""
    lines = [line for line in head.splitlines() if line.strip()][:LOOKED_AT]
    if lines and not any(line.lstrip().startswith((b"{", b"\xef\xbb\xbf{")) for line in lines):
        refuse_no_text(head)
        raise _refused(
            "begins neither with JSON nor with a header that names columns, such as prompt,completion", ADVICE
        )


def _refuse_other_lines(text: bytes) -> None:
    """Rows whose lines are not lines."""
    if b"\r" in text.strip() and b"\n" not in text:
        raise _refused(
            "has lines that end with a carriage return alone", "save it with the line ends of Unix or Windows"
        )
    first, _, rest = text.partition(b"\n")
    if not first.startswith(b"{") or not rest.strip() or _is_json(first):
        return
    # An object that goes on in the next line, where a row would begin with a brace.
    if first.strip() == b"{" or _ends_later(text):
        raise _refused(
            "holds JSON objects that take several lines each",
            "write each row on a line of its own, or all in a JSON array",
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
    """Whether an object begins in the first line, and ends in a later one."""
    decoded = text.decode(errors="replace")
    try:
        _, end = json.JSONDecoder().raw_decode(decoded)
    except (ValueError, RecursionError):
        return False
    return "\n" in decoded[:end]


def _refused(what: str, advice: str) -> FileError:
    return FileError(f"{what}; {advice}", code="unsupported_container")
