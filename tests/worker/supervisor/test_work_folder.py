"""Whose a work folder is, and what is broken there."""

import shutil
from pathlib import Path

import pytest

from api.context import Context
from api.records import job_queue
from api.settings import Settings
from api.spec.lifecycle import Stage
from tests.factories import a_job, a_project, the_job
from worker.supervisor.lost_jobs import requeue_own
from worker.supervisor.node import Node, claim_work_dir


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", database_url=database_url, work_dir=tmp_path / "work")


def name_of(work: Path) -> str:
    owner, _, lock = claim_work_dir(work, Stage.TRAIN)
    lock.close()
    return owner


def test_a_worker_keeps_its_name_over_restarts_and_beside_others(tmp_path: Path) -> None:
    first, _, lock = claim_work_dir(tmp_path, Stage.TRAIN)
    second = name_of(tmp_path)
    assert second != first
    lock.close()
    assert name_of(tmp_path) == first


def test_a_twin_machine_takes_no_live_job(context: Context, tmp_path: Path) -> None:
    """The same host name and the same path, as in two containers of one image; even with a copy of the work folder."""
    work = context.settings.work
    node = Node.open(context, Stage.TRAIN)
    job_id = a_job(context.database, a_project(context.database))
    with context.database.write() as session:
        assert job_queue.claim(session, Stage.TRAIN, owner=node.owner, lease_s=60, gpus=0) is not None
    copied = tmp_path / "copy"
    shutil.copytree(work, copied)
    twins: list[str] = []
    for files in (copied, None):
        work.rename(tmp_path / f"of-another-machine-{len(twins)}")
        if files is not None:
            files.rename(work)
        twin = Node.open(context, Stage.TRAIN)
        requeue_own(twin)
        assert (the_job(context.database, job_id).owner, twin.folder) == (node.owner, node.folder)
        twins.append(twin.owner)
    assert len({node.owner, *twins}) == 3


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": "x"}', b'{"id": "x", "inode": null}'])
def test_a_damaged_identity_is_made_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train-0.id").write_bytes(content)
    name = name_of(tmp_path)
    assert name_of(tmp_path) == name


def test_a_long_host_name_fits_into_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.supervisor.node.socket.gethostname", lambda: "h" * 253)
    assert len(name_of(tmp_path / ("long" * 40))) <= 128
