"""Rows that are cut, and files of which a preview or an estimate gets the beginning."""

from pathlib import Path
from typing import Any

import pytest

from tests.worker import bases
from tests.worker.prepared import jsonl
from worker import preview
from worker.rows.errors import FileRequest

FILE = FileRequest("train", "input", "file-abc", "training_file", 1)


def reported(folder: Path, content: bytes, method: str, *, share: float = 1.0, **request: Any) -> preview.Report:
    bases.base(folder / "base")
    (folder / "input").write_bytes(content)
    report, files = preview.Report(), [preview.PreviewFile(FILE, share=share)]
    preview.run_preview(folder, preview.Request(method={"type": method}, files=files, **request), report)
    return report


@pytest.mark.parametrize(
    ("method", "row", "dropped"),
    [
        ("kto", {"prompt": "a " * 40, "completion": "b", "label": True}, True),
        ("classification", {"text": "a " * 40, "label": "b"}, False),
    ],
)
def test_a_cut_row_is_dropped_unless_only_its_label_is_learnt(
    method: str, row: dict[str, Any], dropped: bool, tmp_path: Path
) -> None:
    [shown] = reported(tmp_path, jsonl(row), method, want="rows", max_length=8).rows
    assert (shown.sequences[0].cut_at, shown.dropped) == (8, dropped)
