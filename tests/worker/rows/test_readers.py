"""The same rows, whatever holds them; and whatever the bytes, rows, reasons why not, or one clear end."""

import csv
import gzip
import io
import json
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from api.spec.formats import Row, RowError
from worker.rows.readers import FileError, PlainChat, ReadLimits, open_rows

LIMITS = ReadLimits(line_bytes=1 << 20, rows=1_000_000, decompressed_bytes=1 << 30)
ROWS: list[Row] = [
    {
        "messages": [
            {"role": "user", "content": 'A "quoted", \\ odd\nline, 😀'},
            {"role": "assistant", "content": "{[]}"},
        ]
    },
    {"messages": [{"role": "assistant", "content": "no question"}], "tools": [{"type": "function"}]},
]


def jsonl(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(rows: list[Row], delimiter: str = ",") -> bytes:
    target = io.StringIO()
    writer = csv.writer(target, delimiter=delimiter)
    writer.writerow(["", "messages", "tools"])  # an index without a name, as pandas writes it
    for number, row in enumerate(rows):
        writer.writerow([number, json.dumps(row["messages"]), json.dumps(row["tools"]) if "tools" in row else ""])
    return target.getvalue().encode()


def parquet(rows: list[Row]) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{**row, "tools": row.get("tools")} for row in rows]), target)
    return target.getvalue()


CONTAINERS: dict[str, tuple[bytes, str]] = {
    "JSON lines": (jsonl(ROWS), "jsonl"),
    "with a byte order mark": (b"\xef\xbb\xbf" + jsonl(ROWS).replace(b"\n", b"\r\n"), "jsonl"),
    "an array": (json.dumps(ROWS).encode(), "json"),
    "an indented array": (b"\n " + json.dumps(ROWS, indent=2).encode() + b"\n", "json"),
    "a table": (table(ROWS), "csv"),
    "a table for Excel": (b"\xef\xbb\xbf" + table(ROWS, ";"), "csv"),
    "a table with tabs": (table(ROWS, "\t"), "csv"),
    "Parquet": (parquet(ROWS), "parquet"),
    "gzip": (gzip.compress(jsonl(ROWS)), "jsonl"),
    "two gzip members": (gzip.compress(jsonl(ROWS[:1])) + gzip.compress(jsonl(ROWS[1:])), "jsonl"),
    "an array in gzip": (gzip.compress(json.dumps(ROWS).encode()), "json"),
    "Zstandard": (zstandard.compress(jsonl(ROWS)), "jsonl"),
    "two Zstandard frames": (zstandard.compress(jsonl(ROWS[:1])) + zstandard.compress(jsonl(ROWS[1:])), "jsonl"),
    "a table in Zstandard": (zstandard.compress(table(ROWS)), "csv"),
}


def read(folder: Path, content: bytes) -> tuple[str, list[tuple[int, Any]]]:
    path = folder / "rows"
    path.write_bytes(content)
    container, rows = open_rows(path, LIMITS)
    return container, [(number, row.row() if isinstance(row, PlainChat) else row) for number, row in rows]


@pytest.mark.parametrize("name", CONTAINERS)
def test_rows_are_the_same_whatever_holds_them(name: str, tmp_path: Path) -> None:
    content, container = CONTAINERS[name]
    assert read(tmp_path, content) == (container, list(enumerate(ROWS, start=1)))


def test_cells_are_texts_unless_the_key_is_json_in_every_format(tmp_path: Path) -> None:
    content = b'prompt,completion,label\n[1],{x},\n"[{""role"": ""user""}]","{""n"": 1}","[""x""]"\na,b,"[{}]"\n'
    _, rows = read(tmp_path, content)
    assert [row for _, row in rows] == [
        {"prompt": "[1]", "completion": "{x}"},
        {"prompt": '[{"role": "user"}]', "completion": '{"n": 1}', "label": ["x"]},
        {"prompt": "a", "completion": "b", "label": "[{}]"},
    ]


def test_a_large_array_is_read_across_the_pieces_it_comes_in(tmp_path: Path) -> None:
    rows = [{"text": f'{number} \\" [{{ ' * (number % 50)} for number in range(20_000)]
    _, found = read(tmp_path, json.dumps(rows).encode())
    assert [row for _, row in found] == rows


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([name for name in CONTAINERS if name != "Parquet"]), st.data())
def test_damaged_bytes_are_rows_or_reasons_or_one_clear_end(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    content = bytearray(CONTAINERS[name][0])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=6))
        content = content or bytearray(b" ")
    with suppress(FileError):
        for _, row in read(tmp_path_factory.getbasetemp(), bytes(content))[1]:
            assert isinstance(row, dict | RowError | None)


@pytest.mark.parametrize("at", [4, 30, 90, 200, -400, -200, -40, -12])
def test_damaged_parquet_is_rows_or_one_clear_end(at: int, tmp_path: Path) -> None:
    content = bytearray(CONTAINERS["Parquet"][0])
    content[at] ^= 0xFF
    with suppress(FileError):
        assert all(isinstance(row, dict | RowError) for _, row in read(tmp_path, bytes(content))[1])


def test_a_crash_over_parquet_takes_only_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    pq.write_table(pa.table({"text": [f"document {number} " * 100 for number in range(5000)]}), path)
    before = set(psutil.Process().children())  # servers of other tests
    _, rows = open_rows(path, LIMITS)
    assert isinstance(next(rows)[1], dict)
    [child] = set(psutil.Process().children()) - before
    child.send_signal(signal.SIGSEGV)
    with pytest.raises(FileError, match="the reading process crashed \\(SIGSEGV\\)"):
        list(rows)


def test_parquet_without_pyarrow_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.rows.readers.parquet.find_spec", lambda name: None)
    with pytest.raises(FileError, match="pyarrow") as refused:
        read(tmp_path, CONTAINERS["Parquet"][0])
    assert refused.value.code == "no_parquet_reader"
