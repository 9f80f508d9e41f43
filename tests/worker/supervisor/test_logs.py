from pathlib import Path

import pytest

from api.context import Caller, Context
from api.errors import NotFound
from api.records import job_queue, jobs
from api.records.job_queue import Claim
from api.services import job_logs
from api.spec.lifecycle import JobStatus, Stage
from tests.conftest import EMBEDDED
from tests.factories import a_caller, a_job
from tests.streams import collected
from worker.supervisor.logs import LogUploader
from worker.supervisor.node import Node
from worker.supervisor.retention import remove_old_logs

SETTINGS = EMBEDDED


@pytest.fixture
def node(context: Context) -> Node:
    return Node.open(context, Stage.TRAIN)


def an_attempt(node: Node, caller: Caller, text: str, folder: Path) -> Claim:
    """That wrote this, and was then lost."""
    with node.context.database.write() as session:
        claim = job_queue.claim(session, Stage.TRAIN, owner="w1", lease_s=60, gpus=0)
    assert claim is not None
    log = folder / "log.txt"
    with LogUploader(node, claim, log):
        log.write_text(text)
    with node.context.database.write() as session:
        job_queue.end_attempt(session, claim, "worker_lost")
        jobs.transition(session, claim.job_id, JobStatus.QUEUED, message="Trying again", fence=claim.fence)
    return claim


def test_the_log_has_every_attempt_in_order(node: Node, tmp_path: Path) -> None:
    caller = a_caller(node.context.database)
    job_id = a_job(node.context.database, caller.project_id)
    for text in ("the first\n", "the second, without an end of line"):
        an_attempt(node, caller, text, tmp_path)
    lines = b"".join(collected(job_logs.read(node.context, caller, job_id))).decode().splitlines()
    assert [lines[1], lines[3]] == ["the first", "the second, without an end of line"]
    assert all(title.startswith("=== training from 20") for title in lines[::2])
    assert all(title.endswith(" on w1: worker_lost") for title in lines[::2])


def test_the_log_ends_in_what_the_job_failed_of(node: Node) -> None:
    caller = a_caller(node.context.database)
    error = {"code": "invalid_training_file", "message": "Row 3: no messages.", "param": "training_file"}
    job_id = a_job(node.context.database, caller.project_id, JobStatus.FAILED, error=error)
    assert collected(job_logs.read(node.context, caller, job_id)) == [b"=== failed: Row 3: no messages.\n"]


def test_it_is_the_projects_own(node: Node) -> None:
    job_id = a_job(node.context.database, a_caller(node.context.database).project_id)
    with pytest.raises(NotFound):
        job_logs.read(node.context, a_caller(node.context.database, "other"), job_id)


def test_logs_go_some_time_after_their_job_has_ended(node: Node, tmp_path: Path) -> None:
    caller = a_caller(node.context.database)
    job_id = a_job(node.context.database, caller.project_id)
    claim = an_attempt(node, caller, "text", tmp_path)
    key = job_queue.log_key(job_id, claim.fence)
    remove_old_logs(node.context, keep_s=-1)
    assert node.context.storage.exists(key), "it has not ended"
    with node.context.database.write() as session:
        jobs.transition(session, job_id, JobStatus.CANCELLED, message="Cancelled")
    remove_old_logs(node.context, keep_s=-1)
    assert not node.context.storage.exists(key)
    assert b"text" not in b"".join(collected(job_logs.read(node.context, caller, job_id)))
