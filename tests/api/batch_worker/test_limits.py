"""Limits of a project that batches which begin at the same time share, on both databases."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from api.batch_worker import validation
from api.batch_worker.validation import InputReader, Invalid
from api.context import Context
from api.records import batches
from api.records.base import db_now
from api.records.batch_items import QUEUE
from api.records.batches import Batch
from api.records.item_queue import WorkClaim
from api.settings import Settings
from api.spec.batch import BatchStatus
from tests.factories import a_batch, a_project


@pytest.fixture
def context(tmp_path: Path, database_url: str) -> Iterator[Context]:
    context = Context.open(Settings(data_dir=tmp_path, database_url=database_url, max_project_batch_requests=1))
    yield context
    context.database.dispose()


def a_claim(context: Context, project: str) -> WorkClaim[Batch]:
    a_batch(context, project, BatchStatus.VALIDATING, due_at=db_now())
    with context.database.write() as session:
        claim = QUEUE.claim(session, 60)
    assert claim is not None
    return claim


def begin(context: Context, claim: WorkClaim[Batch]) -> None:
    validation._begin(context, claim, InputReader("/v1/completions", 1000, 10, {"tiny": 1}, count=1))


def test_batches_that_begin_at_once_share_the_limit(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    project = a_project(context.database)
    first, second = a_claim(context, project), a_claim(context, project)
    count, beside = batches.active, list[Future[None]]()

    def count_while_the_second_begins(session: Session, project_id: str) -> tuple[int, int]:
        found = count(session, project_id)
        if not beside:
            beside.append(pool.submit(begin, context, second))
            wait(beside, timeout=0.5)  # it waits for the first one to end
        return found

    monkeypatch.setattr(batches, "active", count_while_the_second_begins)
    with ThreadPoolExecutor(1) as pool:
        begin(context, first)
    with pytest.raises(Invalid):
        beside[0].result()
