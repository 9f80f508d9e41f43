"""Files that hold no rows are named for what they are, once, and never called processed."""

import bz2
import io
import json
import lzma
import pickle
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worker.rows.readers import ReadLimits, open_rows
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
    "prose": (
        b"Once upon a time\nthere was a file\nwithout any rows.\n" * 50,
        "neither with JSON nor with column names",
    ),
    "YAML": (b"- prompt: a\n  completion: b\n" * 20, "neither with JSON nor with column names"),
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
        b"\n\nprompt,completion\na,b\n",
        b"sep=;\r\nprompt;completion\r\na;b\r\n",
        b'prompt, completion\n"a, b", "c, d"\n',
        b"Unnamed: 0,prompt,completion\n0,a,b\n",
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
    [
        (b"{'text': 'b'}", "Python's notation"),
        (b'{"text": "b"', "ends before the object is closed"),
        (b"// the second", "begins with a comment"),
        (b'{"text": "b",}', "it has a comma before a closing bracket"),
        (b'{"text": "b"},', "a comma follows the object"),
        (b'{"text": "b"}{"text": "d"}', "the line has several objects"),
        (b'{"text": "b"} the second', "the second follows the object"),
        (b'{text: "b"}', "must be in double quotes"),
        (b'{"text": "b\td"}', "control character"),
        (b'{"text": "b\0d"}', "the character NUL"),
        (b"\0\0\0", "the character NUL"),
        (b"```json", "it begins with ```json"),
        (b'{"text": "caf\xe9"}', "save the file in UTF-8"),
    ],
)
def test_a_single_line_is_explained_where_it_stands(tmp_path: Path, line: bytes, words: str) -> None:
    report = scanned(tmp_path, b'{"text": "a"}\n' + line + b"\n" + b'{"text": "c"}\n')
    assert report.error is None
    [finding] = report.findings
    assert finding["line"] == 2
    assert words in finding["message"]


def test_a_space_behind_every_comma_of_a_table_is_no_part_of_its_cells(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b'text, label\n"a, b", "c"\nd, c\n')
    _, rows = open_rows(tmp_path / "input", LIMITS)
    assert list(rows) == [(1, {"text": "a, b", "label": "c"}), (2, {"text": "d", "label": "c"})]
    (tmp_path / "input").write_bytes(b"prompt,completion\na, b\n")
    _, rows = open_rows(tmp_path / "input", LIMITS)
    assert list(rows) == [(1, {"prompt": "a", "completion": " b"})]


def test_a_header_of_unknown_names_is_shown(tmp_path: Path) -> None:
    assert "review,sentiment" in str(scanned(tmp_path, b"review,sentiment\nfine,good\n").error)


def test_a_comma_behind_the_last_row_of_an_array_is_named(tmp_path: Path) -> None:
    report = scanned(tmp_path, b'[{"text": "a"},\n]')
    assert [(each["line"], "remove a comma" in each["message"]) for each in report.findings] == [(2, True)]


def test_parquet_as_pandas_and_datasets_write_it(tmp_path: Path) -> None:
    turns = [[("role", "user"), ("content", "a")], [("role", "assistant"), ("content", "b")]]
    maps = pa.array([turns], pa.list_(pa.map_(pa.string(), pa.string())))
    columns = {"messages": maps, "picture": pa.array([b"\xff"]), "__index_level_0__": pa.array([7])}
    pq.write_table(pa.table(columns), tmp_path / "input")
    _, rows = open_rows(tmp_path / "input", LIMITS)
    assert list(rows) == [(1, {"messages": [*map(dict, turns)], "picture": "(bytes that are no text)"})]
