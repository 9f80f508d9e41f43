"""Files that hold no rows are named for what they are, once, and never called processed."""

import bz2
import io
import json
import lzma
import pickle
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest

from worker.rows.readers import ReadLimits
from worker.scan import Report, scan

LIMITS = ReadLimits(1 << 20, 5_000_000, 1 << 30)
ROWS = [{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}] * 12
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
TABLE = pa.table({"text": ["a document", "another"]})


def arrow(writer: object) -> bytes:
    target = io.BytesIO()
    with writer(target, TABLE.schema) as file:  # type: ignore[operator]
        file.write_table(TABLE)
    return target.getvalue()


def tar() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        entry = tarfile.TarInfo("rows.jsonl")
        entry.size = len(LINES)
        archive.addfile(entry, io.BytesIO(LINES))
    return target.getvalue()


FILES: dict[str, tuple[bytes, str]] = {
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS pointer"),
    "HTML": (b"\n<!DOCTYPE html>\n<html><body>404</body></html>\n" * 40, "HTML page"),
    "HTML without a doctype": (b"<html><head></head></html>", "HTML page"),
    "XML": (b'<?xml version="1.0"?><rows><row/></rows>', "XML"),
    "bz2": (bz2.compress(LINES), "bzip2"),
    "xz": (lzma.compress(LINES), "xz"),
    "lzma": (lzma.compress(LINES, format=lzma.FORMAT_ALONE), "LZMA"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, ".xls"),
    "xlsx": (b"PK\x03\x04" + b"\0" * 60, "spreadsheet"),
    "Arrow file": (arrow(pa.ipc.new_file), "Arrow"),
    "Arrow stream": (arrow(pa.ipc.new_stream), "Arrow"),
    "pickle": (pickle.dumps(ROWS), "pickle"),
    "tar": (tar(), "tar archive"),
    "UTF-16": (LINES.decode().encode("utf-16"), "UTF-16"),
    "UTF-16 without a mark": (LINES.decode().encode("utf-16-le"), "UTF-16"),
    "UTF-32": (LINES.decode().encode("utf-32-le"), "UTF-32"),
    "bars": (b"prompt|completion\na|b\nc|d\n", "separated by |"),
    "CSV of carriage returns": (b"prompt,completion\ra,b\rc,d\r", "carriage return"),
    "JSON of carriage returns": (LINES.replace(b"\n", b"\r"), "carriage return"),
    "pretty-printed objects": (b"".join(json.dumps(row, indent=2).encode() + b"\n" for row in ROWS), "several lines"),
    "one pretty-printed object": (json.dumps({"rows": ROWS * 900}, indent=4).encode(), "several lines"),
    "objects broken after a key": (b'{"prompt": "a",\n "completion": "b"}\n' * 20, "several lines"),
    "Python's repr": (b"".join(repr(row).encode() + b"\n" for row in ROWS), "Python's notation"),
    "Python's repr of a list": (repr(ROWS).encode(), "Python's notation"),
    "prose": (b"Once upon a time\nthere was a file\nwithout any rows.\n" * 50, "neither with JSON nor with a header"),
    "YAML": (b"- prompt: a\n  completion: b\n" * 20, "neither with JSON nor with a header"),
    "random bytes": (bytes(range(1, 256)) * 9 + b"\0", "is not text"),
}


def scanned(folder: Path, content: bytes) -> Report:
    (folder / "input").write_bytes(content)
    return scan(folder / "input", LIMITS)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_kind_is_named_once(tmp_path: Path, name: str) -> None:
    content, words = FILES[name]
    report = scanned(tmp_path, content)
    assert report.error is not None
    assert words in report.error
    assert ";" in report.error or "such as" in report.error, "it says what to do"
    assert len(report.findings) <= 1


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        b"\xef\xbb\xbf" + LINES,
        LINES.replace(b"\n", b"\r\n"),
        LINES.removesuffix(b"\n"),
        json.dumps(ROWS, indent=2).encode(),
        b"\n\n" + LINES,
        b"prompt,completion\r\na,b\r\n",
        b'prompt,completion\n"a\rb",c\n',
        b"text\n'quoted'\n",
        b'{"text": "He said: \'no\'."}\n',
        b'{"text": "' + b"long " * 20_000 + b'"}\n' + b'{"text": "short"}\n',
    ],
)
def test_files_of_rows_are_read_as_before(tmp_path: Path, content: bytes) -> None:
    report = scanned(tmp_path, content)
    assert report.error is None
    assert report.rows >= 1
    assert not [finding for finding in report.findings if finding["severity"] == "error"]


@pytest.mark.parametrize(
    ("line", "words"),
    [(b"{'text': 'b'}", "Python's notation"), (b'{"text": "b"', "ends before its object does")],
)
def test_a_single_line_is_explained_where_it_stands(tmp_path: Path, line: bytes, words: str) -> None:
    report = scanned(tmp_path, b'{"text": "a"}\n' + line + b"\n" + b'{"text": "c"}\n')
    assert report.error is None
    [finding] = report.findings
    assert finding["line"] == 2
    assert words in finding["message"]
