from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from api.context import Context
from api.records import events, models, trackings
from api.records.trackings import HUB, ExportTask
from api.settings import Settings
from tests.factories import a_model, a_project, the_job
from tests.worker.delivery.hub import Hub
from worker.delivery.deliverer import Deliverer
from worker.delivery.hub import HubPusher

TOKEN = "hf_" + "secret" * 5
FILES = {
    "adapter_model.safetensors": b"weights",
    "README.md": b"---\nlicense: mit\n---\n# Card\n",
    "manifest.json": b"{}",
    "merged/model.safetensors": b"whole",
}


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def settings(hub: Hub, tmp_path: Path, sqlite_url: str) -> Settings:
    given: dict[str, Any] = {"hub_token": TOKEN, "hub_namespace": "team", "hub_endpoint": hub.url}
    return Settings(data_dir=tmp_path / "data", database_url=sqlite_url, track_s=1e-6, **given)


def published(context: Context) -> str:
    """A job that made a model, and asked to have it pushed."""
    project_id = a_project(context.database)
    model_id = a_model(context, project_id, FILES)
    with context.database.write() as session:
        model = models.get(session, project_id, model_id)
        assert model is not None
        trackings.add(session, model.job_id, HUB, options={"repository": "team/tuned", "private": True}, at_once=True)
        return model.job_id


def told(context: Context, job_id: str) -> list[str]:
    with context.database.read() as session:
        page = events.page(session, job_id, after=None, limit=100)
    return [event.message for event in reversed(page.data)]


def test_what_was_trained_becomes_a_commit(context: Context, hub: Hub) -> None:
    job_id = published(context)
    HubPusher(Deliverer.open(context)).push_due()
    assert hub.files == {name: FILES[name] for name in ("adapter_model.safetensors", "README.md")}
    assert (hub.made[0]["organization"], hub.made[0]["name"], hub.made[0]["visibility"]) == ("team", "tuned", "private")
    assert hub.keys == {f"Bearer {TOKEN}"}
    assert told(context, job_id) == ["Model pushed to team/tuned"]
    with context.database.read() as session:
        assert trackings.due(session, HUB, "any") == [], "and that was all"


def test_a_hub_that_refuses_is_told_once_and_changes_nothing(context: Context, hub: Hub) -> None:
    job_id = published(context)
    status = the_job(context.database, job_id).status
    hub.refuses_with = 403
    pusher = HubPusher(Deliverer.open(context))
    for _ in range(2):
        with context.database.write() as session:
            session.execute(update(ExportTask).values(due_at=0.0))
        pusher.push_due()
    assert told(context, job_id) == [
        "Model not pushed to team/tuned (the hub answered 403). The push is retried for two days."
    ]
    assert the_job(context.database, job_id).status == status
    assert not hub.files


def test_what_is_to_be_private_is_not_pushed_where_all_can_read_it(context: Context, hub: Hub) -> None:
    job_id = published(context)
    hub.public = True
    HubPusher(Deliverer.open(context)).push_due()
    assert not hub.files
    assert told(context, job_id) == [
        "Model not pushed to team/tuned: the repository is public, but the job requests a private one"
    ]
