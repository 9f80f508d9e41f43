from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from api.context import Context
from api.records import base_models, models
from api.records.jobs import Job
from api.services import lineage
from api.settings import Settings
from tests.factories import a_base_model, a_job, a_model, a_project


def test_a_checkpoint_is_needed_by_other_projects_too_that_may_use_it(context: Context) -> None:
    owner, other = (a_project(context.database, name) for name in ("default", "other"))
    checkpoint = f"{a_model(context, owner)}:ckpt-step-5"
    job_id = a_job(context.database, other, parent_model=checkpoint)
    with context.database.read() as session:
        assert models.referenced_by(session, checkpoint) == [job_id]
        assert models.referenced_by(session, checkpoint, owner) == []


def test_of_many_jobs_only_those_that_name_a_model_are_read(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = a_project(context.database)
    judge = a_model(context, owner)
    others = [a_job(context.database, owner) for _ in range(20)]
    job_id = a_job(context.database, owner)
    with context.database.write() as session:
        job = session.get_one(Job, job_id)
        method = {"type": "ppo", "ppo": {"reward_model": judge}}
        job.recipe = {**job.recipe, "method": method}
    read: list[str] = []
    parsed = models._METHOD.validate_python

    def counted(method: dict[str, Any]) -> Any:
        read.append(method["type"])
        return parsed(method)

    counting = SimpleNamespace(validate_python=counted)
    monkeypatch.setattr(models, "_METHOD", counting)
    with context.database.read() as session:
        assert models.referenced_by(session, judge) == [job_id]
    assert (len(others), read) == (20, ["ppo"])


def test_what_a_job_begins_from_is_locked_against_removal(postgres_url: str, tmp_path: Path) -> None:
    context = Context.open(Settings(data_dir=tmp_path, database_url=postgres_url))
    project = a_project(context.database)
    a_base_model(context.database)
    checkpoint = f"{a_model(context, project)}:ckpt-step-5"
    with context.database.write() as creating, context.database.write() as removing:
        removing.execute(text("SET LOCAL lock_timeout = '50ms'"))
        origin = lineage.find(creating, project, checkpoint)
        assert origin.producing_job is not None
        lineage.hold(creating, project, origin)
        with pytest.raises(OperationalError, match="lock timeout"), removing.begin_nested():
            base_models.get_to_remove(removing, "tiny")
        with pytest.raises(OperationalError, match="lock timeout"), removing.begin_nested():
            models.checkpoints_to_remove(removing, origin.producing_job.id)
    context.database.dispose()
