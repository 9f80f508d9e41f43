"""Rows and tables with very many keys: refused, or checked in time that grows with their number alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from worker.rows.readers import ReadLimits
from worker.rows.readers.base import MAX_KEYS
from worker.rows.readers.jsonl import _object
from worker.scan import Report, scan

LIMITS = ReadLimits(line_bytes=1 << 20, rows=1000, decompressed_bytes=1 << 30)


def scanned(path: Path, content: str) -> Report:
    path.write_text(content)
    return scan(path, LIMITS)


def as_jsonl(extra: int) -> str:
    return json.dumps({"prompt": "a", "completion": "b"} | {f"k{number}": 1 for number in range(extra)}) + "\n"


def as_array(extra: int) -> str:
    return f"[{as_jsonl(extra)}]"


def as_table(extra: int) -> str:
    names = ["prompt", "completion", *(f"k{number}" for number in range(extra))]
    return ",".join(names) + "\n" + ",".join("x" for _ in names) + "\n"


@pytest.mark.parametrize("written", [as_jsonl, as_array, as_table])
def test_forty_thousand_keys_are_one_finding(
    written: Callable[[int], str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = scanned(tmp_path / "input", written(40_000))
    said = report.error or report.findings[0]["message"]
    assert "40,002" in said
    assert f"at most {MAX_KEYS:,} are allowed" in said
    assert sum(report.finding_counts.values()) <= 1


@pytest.mark.parametrize("written", [as_jsonl, as_array, as_table])
def test_as_many_keys_as_a_row_may_have_are_read(
    written: Callable[[int], str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = scanned(tmp_path / "input", written(MAX_KEYS - 2))
    assert (report.error, report.format, report.rows) == (None, "completion", 1)
    assert report.finding_counts["unknown_key"] == MAX_KEYS - 2


class Key(str):
    """Counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Key.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_a_repeated_key_is_found_without_comparing_each_with_all() -> None:
    keys: list[tuple[str, Any]] = [(Key(f"k{number}"), 1) for number in range(2000)]
    Key.compared = 0
    with pytest.raises(ValueError, match="has the key 'k1999' twice"):
        _object([*keys, (Key("k1999"), 1)])
    assert Key.compared < 100
