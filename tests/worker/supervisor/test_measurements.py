"""Measurements of base models on the worker's disk."""

import os
from pathlib import Path

import pytest

from api.spec.manifest import ParentAdapter
from worker.supervisor import measurements
from worker.supervisor.measurements import keep_measurements, link_measurements

PARENT = ParentAdapter(model="ft:a", files={"adapter_model.safetensors": "0" * 64})


def a_run(folder: Path, project: str, base: str = "b1", continues: ParentAdapter | None = None) -> Path:
    (folder / measurements.NEW).mkdir(parents=True)
    link_measurements(folder.parent / "cache", folder, project_id=project, base=base, continues=continues)
    return folder


def kept(run: Path) -> set[str]:
    return {file.name for file in (run / "measured").iterdir()}


def test_only_jobs_of_the_project_that_begin_with_the_same_model_get_a_measurement(tmp_path: Path) -> None:
    run = a_run(tmp_path / "1", "p1")
    (run / measurements.NEW / "a.json").write_text("{}")
    keep_measurements(tmp_path / "cache", run, keep_days=30)
    assert kept(a_run(tmp_path / "2", "p1")) == {"a.json"}
    others = ("p2", "b1", None), ("p1", "b2", None), ("p1", "b1", PARENT)
    assert [kept(a_run(tmp_path / f"other{n}", *other)) for n, other in enumerate(others)] == [set()] * 3


def test_the_least_recently_used_measurements_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "KEPT", 2)
    run = a_run(tmp_path / "1", "p1")
    for age_days, name in ((2, "old"), (1, "used"), (0, "new")):
        path = run / measurements.NEW / f"{name}.json"
        path.write_text("{}")
        keep_measurements(tmp_path / "cache", run, keep_days=30)
        os.utime(run / "measured" / path.name, (path.parent.stat().st_mtime - age_days * 24 * 3600,) * 2)
    assert kept(run) == {"new.json", "used.json"}
    keep_measurements(tmp_path / "cache", run, keep_days=0.5)
    assert kept(run) == {"new.json"}


def test_what_is_too_large_for_a_measurement_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "MAX_BYTES", 1)
    run = a_run(tmp_path / "1", "p1")
    (run / measurements.NEW / "a.json").write_text("{}")
    keep_measurements(tmp_path / "cache", run, keep_days=0)
    assert kept(run) == set()


def test_a_file_that_cannot_be_deleted_keeps_no_other_one(tmp_path: Path) -> None:
    runs = [a_run(tmp_path / project, project) for project in ("p1", "p2", "p3")]
    folders = [(run / "measured").resolve() for run in runs]
    for age, folder in enumerate(folders):
        path = folder / "a.json"
        path.mkdir() if age == 1 else path.write_text("{}")
        os.utime(path, (age, age))
    keep_measurements(tmp_path / "cache", runs[0], keep_days=30)
    assert [folder.exists() for folder in folders] == [False, True, False]
    (runs[0] / measurements.NEW / "b.json").write_text("{}")
    keep_measurements(tmp_path / "cache", runs[0], keep_days=30)
    assert kept(runs[0]) == {"b.json"}, "into a new folder"
