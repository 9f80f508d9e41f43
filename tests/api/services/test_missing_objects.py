"""Objects that the database names and the storage lacks."""

from pathlib import Path

import pytest
from sqlalchemy import delete

from api.context import Context
from api.records.files import File
from api.services import missing_objects
from api.settings import Settings
from tests.api.services.test_orphans import of_each_kind
from tests.factories import a_caller, a_file


@pytest.fixture
def settings(sqlite_url: str, storage_url: str, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", database_url=sqlite_url, storage_url=storage_url)


def test_what_the_storage_lacks_is_found_unless_it_can_be_made_again(context: Context) -> None:
    keys = of_each_kind(context)
    a_file(context, a_caller(context.database).project_id)
    before = missing_objects.find(context)
    lost = [key for key in keys if key.startswith(("checkpoints/", "base/", "uploads/"))]
    context.storage.delete([*lost, *(key for key in keys if key.startswith("arrays/"))])
    assert [key for key in missing_objects.find(context) if key not in before] == sorted(lost)


def test_what_is_deleted_while_the_storage_is_listed_is_not_missing(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id, listed = a_file(context, a_caller(context.database).project_id), context.storage.list_objects

    def deletes_the_file(kind: str) -> object:
        with context.database.write() as session:
            session.execute(delete(File).where(File.id == file_id))
        context.storage.delete_prefix("files")
        return listed(kind)

    monkeypatch.setattr(context.storage, "list_objects", deletes_the_file)
    assert missing_objects.find(context) == []


def test_a_saved_state_without_its_manifest_is_missing(context: Context) -> None:
    manifest, before = (key for key in of_each_kind(context) if key.startswith("states/"))
    context.storage.delete([manifest])
    assert manifest in missing_objects.find(context)
    assert before.replace("a/b", "manifest.json") in missing_objects.find(context), "only another file of it is stored"
