"""Pages of rows, whatever the number of queries that they take."""

import ast

import pytest

from api import records
from api.records import Database, events, pages, webhook_deliveries
from api.records.webhook_deliveries import Delivery
from api.records.webhooks import Webhook
from tests.events import add_events
from tests.factories import a_job, a_project
from tests.source import modules


@pytest.mark.parametrize("after", [None, 70])
@pytest.mark.parametrize("limit", [1, 3, 4, 50, 100, 1000])
def test_page_is_the_same_in_one_query_and_in_many(
    database: Database, limit: int, after: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "FIRST_ROWS", 3)
    job_id = a_job(database, a_project(database))
    newest_first = add_events(database, job_id, 100)[::-1]
    begin = 0 if after is None else after + 1
    cursor = None if after is None else newest_first[after]
    with database.read() as session:
        page = events.page(session, job_id, after=cursor, limit=limit)
    assert [event.id for event in page.data] == newest_first[begin : begin + limit]
    assert page.has_more == (begin + limit < 100)


def test_page_ends_early_where_its_rows_are_large(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "FIRST_ROWS", 3)
    monkeypatch.setattr(pages, "MAX_BYTES", 2000)
    job_id = a_job(database, a_project(database))
    add_events(database, job_id, 100)
    with database.read() as session:
        page = events.page(session, job_id, after=None, limit=100)
    assert page.has_more
    assert 1500 < sum(map(pages.size_of, page.data)) <= 2000


def deliveries_of_a_webhook(database: Database) -> tuple[str, list[str]]:
    """Return the id of a webhook, and the ids of its deliveries, newest first."""
    project = a_project(database)
    webhook = Webhook(
        id="webhook_1", project_id=project, name="", url="", event_types=["e"], secret="", created_at=0, updated_at=0
    )
    ids = [f"whd_{number}" for number in range(4)]
    with database.write() as session:
        session.add(webhook)
        session.flush()
        for number, delivery in enumerate(ids):
            row = {
                "webhook_id": webhook.id,
                "event_id": "e",
                "event_type": "e",
                "object_id": "o",
                "status": "delivered",
            }
            session.add(Delivery(id=delivery, created_at=0.1 + number, **row))
    return webhook.id, ids[::-1]


def test_id_of_a_deleted_row_remains_a_cursor_until_it_is_forgotten(database: Database) -> None:
    webhook, newest_first = deliveries_of_a_webhook(database)
    with database.write() as session:
        webhook_deliveries.LISTING.delete(session, Delivery.id == newest_first[1])
    with database.read() as session:
        page = webhook_deliveries.page(session, webhook, after=newest_first[1], limit=9)
        assert [row.id for row in page.data] == newest_first[2:]
        with pytest.raises(pages.UnknownCursor):
            webhook_deliveries.LISTING.position(session, "another webhook", newest_first[1])
    with database.write() as session:
        pages.forget_deleted(session, keep_s=-1)
        with pytest.raises(pages.UnknownCursor):
            webhook_deliveries.page(session, webhook, after=newest_first[1], limit=9)


def test_job_whose_events_were_deleted_has_an_empty_page_after_any_of_them(database: Database) -> None:
    job_id = a_job(database, a_project(database))
    (event,) = add_events(database, job_id, 1)
    with database.write() as session:
        events.delete_of(session, [job_id])
        assert events.page(session, job_id, after=event, limit=9).data == []


def test_rows_of_lists_are_deleted_through_their_listing() -> None:
    """Other statements would leave no position. Where the whole list goes, none is needed."""
    listed = {
        value.id.class_.__name__
        for name, module in vars(records).items()
        if name in records.__all__
        for value in vars(module).values()
        if isinstance(value, pages.Listing)
    }
    assert "File" in listed
    deleting = {
        (module, function.name)
        for module, tree in modules().items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "delete"
        and {ast.unparse(each) for each in node.args} & listed
    }
    assert deleting == {
        ("api.records.events", "delete_of"),
        ("api.records.permissions", "delete_for_models"),
        ("api.records.webhook_deliveries", "remove_of"),
    }
