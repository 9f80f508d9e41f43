"""A prepare slot looks through what was uploaded, and survives the loss of another at it."""

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from api.context import Context
from api.infra.storage import Storage
from api.records import scans
from api.records.base import db_now
from api.records.files import File
from api.schemas.files import FileObject
from api.services import file_reports
from api.settings import Settings
from tests.conftest import opened
from tests.end_to_end.jobs import rows, wait_until
from tests.factories import a_file, a_project
from tests.worker.supervisor.conftest import OpenWorkshop, Workshop
from worker.supervisor import scan
from worker.supervisor.child import Child
from worker.supervisor.loop import work_until_idle
from worker.supervisor.node import Node
from worker.supervisor.scan import ScanBeat, fail_abandoned_scans, scan_next


def the_file(context: Context, file_id: str) -> File:
    with context.database.read() as session:
        return session.get_one(File, file_id)


def test_an_uploaded_file_is_scanned_without_a_job(workshop: Workshop) -> None:
    file_id = a_file(workshop.context, workshop.caller.project_id, rows(12))
    work_until_idle(workshop.prepare)
    file = the_file(workshop.context, file_id)
    assert file.scan is not None
    assert (file.scan_status, file.scan["format"], file.scan["rows"]) == ("done", "chat", 12)


def test_a_file_that_cannot_be_read_fails_its_scan(workshop: Workshop) -> None:
    file_id = a_file(workshop.context, workshop.caller.project_id, b"PK\x03\x04 a spreadsheet")
    work_until_idle(workshop.prepare)
    file = the_file(workshop.context, file_id)
    assert file.scan is not None
    assert file.scan_status == "failed"
    assert "spreadsheet" in file.scan["error"]


def test_a_lost_workers_scan_is_begun_again_and_its_late_answer_dropped(workshop: Workshop) -> None:
    file_id = a_file(workshop.context, workshop.caller.project_id, rows(12))
    with workshop.context.database.write() as session:
        lost = scans.claim(session, lease_s=-1)
    assert lost is not None
    work_until_idle(workshop.prepare)
    with workshop.context.database.write() as session:
        assert not scans.finish(session, lost, "failed", {"error": "late"})
    assert the_file(workshop.context, file_id).scan_status == "done"


def test_two_workers_do_not_scan_the_same_file(workshop: Workshop) -> None:
    a_file(workshop.context, workshop.caller.project_id, rows(12))
    with workshop.context.database.write() as session:
        assert scans.claim(session, lease_s=60) is not None
        assert scans.claim(session, lease_s=60) is None


def test_a_scans_lease_is_renewed_while_its_file_is_fetched(
    open_workshop: OpenWorkshop, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise another worker would claim a file whose fetch takes longer than the lease, and so on."""
    settings = Settings(data_dir=tmp_path / "data", database_url=database_url, heartbeat_s=0.02)
    with opened(settings) as context:
        workshop = open_workshop(context)
        file_id = a_file(context, workshop.caller.project_id, rows(12))
        read_file = Storage.read_file

        def outlast_the_lease(storage: Storage, *args: Any, **options: Any) -> None:
            with context.database.write() as session:
                session.execute(update(File).values(scan_until=db_now() - 1))
            wait_until(lambda: not claimable(context), timeout_s=20)
            read_file(storage, *args, **options)

        monkeypatch.setattr(Storage, "read_file", outlast_the_lease)
        assert scan_next(workshop.prepare)
        file = the_file(context, file_id)
    assert (file.scan_status, file.scan_fence) == ("done", 1)


def claimable(context: Context) -> bool:
    with context.database.read() as session:
        return scans.has_waiting(session)


def test_a_scan_whose_file_another_worker_has_claimed_ends(
    open_workshop: OpenWorkshop, database_url: str, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path / "data", database_url=database_url, heartbeat_s=0.02)
    with opened(settings) as context:
        workshop = open_workshop(context)
        a_file(context, workshop.caller.project_id, rows(12))
        with context.database.write() as session:
            overtaken, newest = scans.claim(session, lease_s=-1), scans.claim(session, lease_s=60)
        assert overtaken is not None
        assert newest is not None
        with ScanBeat(workshop.prepare, overtaken) as beat, ScanBeat(workshop.prepare, newest) as other:
            assert beat.lost.wait(20)
            assert not other.lost.is_set()


def test_a_file_that_loses_every_worker_is_given_up(workshop: Workshop) -> None:
    file_id = a_file(workshop.context, workshop.caller.project_id, rows(12))
    for _ in range(scans.MAX_SCANS):
        with workshop.context.database.write() as session:
            assert scans.claim(session, lease_s=-1) is not None
    fail_abandoned_scans(workshop.prepare)
    assert the_file(workshop.context, file_id).scan_status == "failed"


def hangs(node: Node, program: str, folder: Path) -> Child:
    child = Child("tests.worker.supervisor.talking", log_file=folder / "log.txt")
    assert child.next_report(60) is not None, "its only one"
    child.silent_s = node.context.settings.hung_s
    return child


def is_killed(node: Node, program: str, folder: Path) -> Child:
    return Child("tests.worker.supervisor.killed", log_file=folder / "log.txt")


@pytest.mark.parametrize("settings", ["embedded"], indirect=True)
@pytest.mark.parametrize(
    ("start_child", "kills", "error"),
    [(hangs, 0, scan.HUNG), (is_killed, 1, scan.KILLED_FOR_MEMORY), (is_killed, 0, scan.LOST)],
)
def test_a_file_whose_scans_are_killed_fails_with_the_reason(
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    start_child: Callable[[Node, str, Path], Child],
    kills: int,
    error: str,
) -> None:
    file_id = a_file(workshop.context, workshop.caller.project_id, rows(12))
    monkeypatch.setattr(Node, "start_child", start_child)
    monkeypatch.setattr(scan, "out_of_memory_kills", itertools.count(step=kills).__next__)
    monkeypatch.setattr(scan, "WAIT_S", 0.01)
    monkeypatch.setattr(scans, "MAX_SCANS", 2)
    for _ in range(scans.MAX_SCANS):
        assert FileObject.of(the_file(workshop.context, file_id)).status == "processed"
        scan_next(workshop.prepare)
        report = file_reports.report(workshop.context, workshop.caller, file_id)
        assert (report.status, report.scan) == ("pending", {})
    fail_abandoned_scans(workshop.prepare)
    file = FileObject.of(the_file(workshop.context, file_id))
    assert (file.status, file.status_details) == ("error", error)


@pytest.mark.parametrize("damaged", [b"other rows", None], ids=["damaged", "missing"])
def test_a_file_that_the_storage_has_damaged_or_lost_fails_with_the_remedy(
    workshop: Workshop, damaged: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id, storage = a_file(workshop.context, workshop.caller.project_id, rows(12)), workshop.context.storage
    key = str(the_file(workshop.context, file_id).storage_key)
    if damaged is None:
        storage.delete([key])
    else:
        storage.write_bytes(key, damaged)
    monkeypatch.setattr(scans, "MAX_SCANS", 1)
    scan_next(workshop.prepare)
    fail_abandoned_scans(workshop.prepare)
    assert FileObject.of(the_file(workshop.context, file_id)).status_details == scan.DAMAGED


def test_projects_take_turns_at_scans(workshop: Workshop) -> None:
    context = workshop.context
    ours, theirs = workshop.caller.project_id, a_project(context.database, "other")
    first = [a_file(context, ours, rows(12)) for _ in range(3)]
    other = a_file(context, theirs, rows(12))
    order = []
    while True:
        with context.database.write() as session:
            claim = scans.claim(session, lease_s=60)
        if claim is None:
            break
        order.append(claim.file_id)
    assert set(order[:2]) == {order[0], other}
    assert order[0] in first
    assert sorted(order) == sorted([*first, other])


def test_a_project_with_many_scans_behind_it_waits_for_one_of_anothers(workshop: Workshop) -> None:
    context = workshop.context
    ours, theirs = workshop.caller.project_id, a_project(context.database, "other")

    def scanned_next() -> str:
        with context.database.write() as session:
            claim = scans.claim(session, lease_s=60)
            assert claim is not None
            scans.finish(session, claim, "done", {})
        return claim.file_id

    before = {a_file(context, ours, rows(12)) for _ in range(4)}
    assert {scanned_next() for _ in before} == before
    flood = {a_file(context, theirs, rows(12)) for _ in range(4)}
    assert scanned_next() in flood
    mine = a_file(context, ours, rows(12))
    assert scanned_next() == mine


def test_a_job_does_not_wait_for_a_scan(open_workshop: OpenWorkshop, sqlite_url: str, tmp_path: Path) -> None:
    """The scan is under way as long as its file does not come; a slot prepares the job meanwhile."""
    settings = Settings(data_dir=tmp_path / "data", database_url=sqlite_url)
    with opened(settings) as context:
        workshop = open_workshop(context)
        file_id = a_file(context, workshop.caller.project_id, rows(12))
        fifo = tmp_path / "data" / "objects" / str(the_file(context, file_id).storage_key)
        fifo.unlink()
        os.mkfifo(fifo)
        scanner = threading.Thread(target=work_until_idle, args=(workshop.prepare,))
        scanner.start()
        while the_file(context, file_id).scan_until is None:
            scanner.join(0.01)
        job_id = workshop.submit()
        work_until_idle(workshop.prepare)
        assert workshop.job(job_id).status == "queued"
        assert scanner.is_alive()
        descriptor = os.open(fifo, os.O_RDWR)
        fifo.unlink()
        os.close(descriptor)
        scanner.join()
