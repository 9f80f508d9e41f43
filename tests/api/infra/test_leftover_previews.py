"""Work folders of killed previews."""

import os
import time
from pathlib import Path

import pytest

from api.infra.leftover_previews import remove_leftover_previews, removing_leftover_previews
from api.settings import Settings


def make_folder(work: Path, name: str, age_s: float) -> None:
    (work / name).mkdir()
    (work / name / "rows.jsonl").write_text("private")
    os.utime(work / name, (time.time() - age_s,) * 2)


def test_old_folders_of_previews_are_removed(tmp_path: Path) -> None:
    make_folder(tmp_path, "preview-old", 3700)
    make_folder(tmp_path, "preview-running", 60)
    make_folder(tmp_path, "train-0", 3700)
    remove_leftover_previews(Settings(work_dir=tmp_path))
    assert {folder.name for folder in tmp_path.iterdir()} == {"preview-running", "train-0"}


def test_long_previews_are_left_alone(tmp_path: Path) -> None:
    make_folder(tmp_path, "preview-long", 3700)
    remove_leftover_previews(Settings(work_dir=tmp_path, preview_seconds=1800))
    assert (tmp_path / "preview-long").exists()


def test_they_are_removed_at_start_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.infra.leftover_previews.HOUR_S", 0.01)
    with removing_leftover_previews(Settings(work_dir=tmp_path, preview_seconds=1)):
        for name in ("preview-first", "preview-second"):
            make_folder(tmp_path, name, 60)
            deadline = time.monotonic() + 20
            while (tmp_path / name).exists() and time.monotonic() < deadline:
                time.sleep(0.005)
    assert not list(tmp_path.iterdir())
