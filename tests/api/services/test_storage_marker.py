"""A database and its storage are tied together, and no process starts with another one."""

from dataclasses import replace
from pathlib import Path

import pytest

from api.cli import deployment
from api.cli.errors import CommandError, ExitCode
from api.context import Context
from api.infra.storage import Storage
from api.records import objects
from api.records.installation import MARKER
from api.services import storage_marker
from api.services.diagnosis import _check_marker, check_components
from api.services.storage_marker import WrongStorage
from api.settings import Settings
from tests.conftest import EMBEDDED

SETTINGS = EMBEDDED


def another(context: Context, folder: Path) -> Context:
    """The context of a process with the same database and a storage of its own."""
    folder.mkdir()
    return replace(context, storage=Storage(str(folder)))


def test_another_storage_is_refused_until_it_is_claimed(context: Context, tmp_path: Path) -> None:
    storage_marker.prepare(context)
    storage_marker.prepare(context)
    storage_marker.require(context)
    other = another(context, tmp_path / "other")
    with pytest.raises(WrongStorage, match="lacks the object 'installation' of this database's storage"):
        storage_marker.require(other)
    other.storage.write_bytes(MARKER, b"of another installation")
    with pytest.raises(WrongStorage, match=r"belongs to another database.*`attune storage claim`"):
        storage_marker.require(other)
    storage_marker.claim(other)
    storage_marker.require(other)
    with pytest.raises(WrongStorage):
        storage_marker.require(context)


def test_a_restored_database_keeps_the_marker_of_its_storage(context: Context) -> None:
    context.storage.write_bytes(MARKER, b"ab12")
    storage_marker.prepare(context)
    assert b"".join(context.storage.read(MARKER)) == b"ab12"
    storage_marker.require(context)


def test_a_process_with_another_storage_ends_with_one_line(context: Context, tmp_path: Path) -> None:
    deployment.prepare(context)
    deployment.require(context.settings)
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    settings = context.settings.model_copy(
        update={"storage_url": str(wrong), "database_url": context.settings.database}
    )
    with pytest.raises(CommandError) as refused:
        deployment.require(settings)
    assert (refused.value.code, "\n" in refused.value.message) == (ExitCode.REFUSED, False)


def test_a_wrong_password_and_a_silent_address_of_the_broker_are_told_apart(valkey_url: str) -> None:
    host = valkey_url.rpartition("@")[2]
    wrong = Settings(broker_url=f"redis://:wrong@{host}")
    with pytest.raises(CommandError, match=r"refuses the connection \(.*\): correct ATTUNE_BROKER_URL") as refused:
        deployment.require_connection(wrong, wait_s=60)
    assert refused.value.code is ExitCode.REFUSED
    assert "wrong" not in refused.value.message.replace("wrong password", "")
    nobody = Settings(broker_url="redis://:x@127.0.0.1:1/0")
    with pytest.raises(CommandError, match=r"127\.0\.0\.1:1/0 cannot be reached") as unreachable:
        deployment.require_connection(nobody, wait_s=0)
    assert unreachable.value.code is ExitCode.UNAVAILABLE
    deployment.require_connection(Settings(broker_url=valkey_url), wait_s=0)


def test_a_backup_takes_the_marker_along(context: Context) -> None:
    with context.database.read() as session:
        assert MARKER not in objects.named(session)
    storage_marker.prepare(context)
    with context.database.read() as session:
        assert MARKER in objects.named(session)


def test_the_doctor_names_another_storage(context: Context, tmp_path: Path) -> None:
    storage_marker.prepare(context)
    (tmp_path / "other").mkdir()
    settings = context.settings.model_copy(update={"storage_url": str(tmp_path / "other")})
    found = [
        check for check in check_components(settings) if check.status == "problem" and check.component == "storage"
    ]
    assert [check.remedy for check in found if check.remedy and "attune storage claim" in check.remedy]
    assert not list(_check_marker(context.settings))
