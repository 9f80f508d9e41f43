"""The queue of batches and their items, on both databases."""

import pytest

from api.records import Database, batch_items, batches
from api.records.base import current_time, db_now
from api.records.batch_items import QUEUE, BatchItem, BatchItemClaim, ItemResult, NewItem
from api.records.batches import Batch
from api.records.files import File
from api.records.item_queue import StaleWork
from api.spec.batch import WINDOW_S, BatchStatus
from api.spec.ids import new_id
from tests.factories import a_project
from tests.query_plans import query_plans

ANSWERED = ItemResult(True, "{}", prompt_tokens=5, completion_tokens=3)


def a_batch(database: Database, project: str, items: int) -> str:
    """One that is in progress."""
    project_id, file_id = a_project(database, project), new_id("file-")
    batch = Batch(
        id=new_id("batch_"),
        project_id=project_id,
        key_id="key",
        endpoint="/v1/completions",
        input_file=file_id,
        status=BatchStatus.VALIDATING,
        created_at=db_now(),
        expires_at=db_now() + WINDOW_S,
        total=items,
    )
    stored = {"filename": "a.jsonl", "purpose": "batch", "bytes": 1, "storage_key": f"files/{file_id}"}
    with database.write() as session:
        session.add(File(id=file_id, project_id=project_id, created_at=db_now(), **stored))
        session.add(batch)
        session.flush()
        lines = [NewItem(line, f"{project}{line}", line, 1) for line in range(1, items + 1)]
        batch_items.add(session, batch.id, lines)
        batches.transition(session, batch, BatchStatus.IN_PROGRESS, due_at=batch.expires_at)
    return batch.id


def claim(database: Database, owner: str = "one", lease_s: float = 60) -> BatchItemClaim | None:
    with database.write() as session:
        return QUEUE.claim_item(session, owner, lease_s)


def finish(database: Database, item: BatchItemClaim) -> bool:
    with database.write() as session:
        return batch_items.finish(session, item, ANSWERED)


def the_batch(database: Database, batch_id: str) -> Batch:
    with database.read() as session:
        return session.get_one(Batch, batch_id)


def test_two_projects_take_turns_and_each_item_is_claimed_once(database: Database) -> None:
    a_batch(database, "a", 3)
    a_batch(database, "b", 2)
    order = []
    while (item := claim(database)) is not None:
        order.append(item.item.custom_id)
        assert finish(database, item)
    assert order == ["a1", "b1", "a2", "b2", "a3"]


def test_an_item_of_a_dead_worker_is_answered_by_another_and_counted_once(database: Database) -> None:
    batch_id = a_batch(database, "a", 2)
    first = claim(database, "dead", lease_s=-1)
    again = claim(database, "alive")
    assert first is not None
    assert again is not None
    assert again.key[1:] == (2, 1), "the items that nobody held come first"
    taken_over = claim(database, "alive")
    assert taken_over is not None
    assert taken_over.key[1:] == (first.item.line, 2)
    assert not finish(database, first), "its fence is old"
    assert finish(database, taken_over)
    assert not finish(database, taken_over), "it has its result"
    assert the_batch(database, batch_id).completed == 1
    assert finish(database, again)
    batch = the_batch(database, batch_id)
    assert (batch.status, batch.completed, batch.prompt_tokens) == ("finalizing", 2, 10)


def test_leases_are_renewed_until_the_batch_is_cancelled(database: Database) -> None:
    batch_id = a_batch(database, "a", 2)
    item, dropped = claim(database, "one"), claim(database, "one", lease_s=-1)
    assert item is not None
    assert dropped is not None
    with database.write() as session:
        assert QUEUE.renew_items(session, {item.key}, 60) == {item.key}
    again = claim(database, "two")
    assert again is not None
    assert again.item.line == dropped.item.line, "its worker holds it no longer"
    with database.write() as session:
        assert QUEUE.renew_items(session, {item.key, dropped.key}, 60) == {item.key}
        batch = QUEUE.lock(session, batch_id)
        batches.transition(session, batch, BatchStatus.CANCELLING, due_at=current_time(session))
    with database.write() as session:
        assert not QUEUE.renew_items(session, {item.key, again.key}, 60)
    assert not finish(database, item)
    assert claim(database) is None


def test_a_released_item_waits_and_keeps_the_count_of_its_faults(database: Database) -> None:
    batch_id = a_batch(database, "a", 1)
    item = claim(database)
    assert item is not None
    with database.write() as session:
        QUEUE.release(session, item, 60, fault=True)
    assert claim(database) is None
    with database.write() as session:
        session.get_one(BatchItem, (batch_id, 1)).due_at = 0
    again = claim(database)
    assert again is not None
    assert again.item.faults == 1


def test_the_batches_of_a_project_do_not_delay_those_of_another(database: Database) -> None:
    first, second = a_batch(database, "a", 1), a_batch(database, "a", 1)
    other = a_batch(database, "b", 1)
    with database.write() as session:
        for number, batch_id in enumerate((first, second, other)):
            QUEUE.lock(session, batch_id).due_at = number
    order = []
    with database.write() as session:
        while (claimed := QUEUE.claim(session, lease_s=60)) is not None:
            order.append(claimed.work.id)
    assert order == [first, other, second]


def test_a_batch_that_another_worker_took_over_is_lost_to_the_first(database: Database) -> None:
    batch_id = a_batch(database, "a", 1)
    with database.write() as session:
        QUEUE.lock(session, batch_id).due_at = 0
    with database.write() as session:
        first = QUEUE.claim(session, lease_s=-1)
    with database.write() as session:
        second = QUEUE.claim(session, lease_s=60)
    with database.write() as session:
        assert QUEUE.claim(session, lease_s=60) is None
    assert first is not None
    assert second is not None
    with database.write() as session, pytest.raises(StaleWork):
        QUEUE.lock_claimed(session, first)
    with database.write() as session:
        assert QUEUE.lock_claimed(session, second).id == batch_id


def test_what_a_worker_holds_of_a_cancelled_batch_takes_no_turn(database: Database) -> None:
    cancelled = a_batch(database, "a", 2)
    assert all(claim(database) is not None for _ in range(2))
    with database.write() as session:
        batches.transition(session, QUEUE.lock(session, cancelled), BatchStatus.CANCELLING)
    a_batch(database, "a", 2)
    a_batch(database, "b", 2)
    order = [item.item.custom_id[0] for _ in range(2) if (item := claim(database)) is not None]
    assert order == ["b", "a"]


def test_ended_batches_are_not_read_for_the_next_step(database: Database) -> None:
    """Each step of each batch looks for the next one, and an installation may keep all its batches."""
    with database.write() as session, query_plans(database) as plans:
        assert QUEUE.claim(session, lease_s=60) is None
    batches_read = [plan for plan in plans if " batches " in plan]
    assert bool(batches_read) == database.is_sqlite
    assert all("INDEX ix_batches_due_at (due_at<?)" in plan for plan in batches_read[:1]), plans
    assert not any(plan.startswith("SCAN batches") for plan in plans), plans
