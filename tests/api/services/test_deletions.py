"""Deletions that the storage refuses, during an outage or by a bucket's policy."""

import pytest
from sqlalchemy import select

from api.context import Context
from api.infra.storage import StorageUnavailable
from api.records.files import File
from api.records.models import Checkpoint, Model
from api.services import files, models
from tests.factories import a_caller, a_file, a_model


@pytest.fixture(autouse=True)
def refusing(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(keys: list[str]) -> None:
        raise StorageUnavailable(keys[0])

    monkeypatch.setattr(context.storage, "delete", refuse)


def test_a_file_is_deleted_though_its_object_is_left(context: Context) -> None:
    """After an error, OpenAI's clients would retry, and report that there is no such file."""
    caller = a_caller(context.database)
    files.delete(context, caller, a_file(context, caller.project_id))
    with context.database.read() as session:
        assert not session.scalars(select(File)).all()


def test_a_model_is_deleted_though_its_objects_are_left(context: Context) -> None:
    caller = a_caller(context.database)
    models.delete(context, caller, a_model(context, caller.project_id))
    with context.database.read() as session:
        assert not [*session.scalars(select(Model)), *session.scalars(select(Checkpoint))]
