"""Rows that are cut, and files of which a preview or an estimate gets the beginning."""

from pathlib import Path
from typing import Any

import pytest

from tests.worker import bases
from tests.worker.prepared import jsonl
from worker import preview
from worker.rows.errors import FileRequest, JobRejected

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


@pytest.mark.parametrize("cut", [b'{"text": "b', b"}"])
def test_the_last_row_of_a_files_beginning_is_not_invalid(cut: bytes, tmp_path: Path) -> None:
    report = reported(tmp_path, jsonl({"text": "a"}) * 3 + cut, "supervised", want="counts", share=0.5)
    assert (report.counts["train"].sampled, report.counts["train"].rows) == (3, 6)


def test_an_invalid_row_before_the_end_of_a_files_beginning_is_reported(tmp_path: Path) -> None:
    with pytest.raises(JobRejected, match="Example 2"):
        reported(
            tmp_path, jsonl({"text": "a"}) + b"{x}\n" + jsonl({"text": "b"}), "supervised", want="counts", share=0.5
        )
