"""The operator's commands, as an operator runs them: on a new folder, before any server."""

import json
import os
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import text
from typer.testing import CliRunner

from api.cli import console
from api.cli.main import app
from api.context import Context
from api.records import Database
from api.records import keys as key_records
from api.records.migrate import alembic_config
from api.services import base_models, keys
from api.settings import load_settings
from tests.api.cli.terminal import run_on_terminal
from tests.factories import a_file, a_project


@pytest.fixture
def attune(tmp_path: Path):
    def run(*arguments: str, code: int = 0):
        result = CliRunner().invoke(app, [*arguments, "--data-dir", str(tmp_path / "data")])
        assert result.exit_code == code, result.output
        return result

    return run


def test_a_key_is_shown_once_and_can_be_revoked(attune) -> None:
    made = json.loads(attune("keys", "create", "--project", "a", "--name", "ci", "--scope", "read", "--json").stdout)
    assert made["api_key"].startswith("sk-attune-")
    listed = attune("keys", "list", "--json").stdout
    assert made["api_key"] not in listed
    assert [(key["project"], key["name"], key["scope"]) for key in json.loads(listed)] == [("a", "ci", "read")]
    attune("keys", "revoke", made["id"])
    assert json.loads(attune("keys", "list", "--json").stdout)[0]["revoked"]
    assert "no live key" in attune("keys", "revoke", made["id"], code=2).output


def test_a_key_can_be_revoked_during_an_outage_of_the_storage(attune, monkeypatch: pytest.MonkeyPatch) -> None:
    made = json.loads(attune("keys", "create", "--json").stdout)
    monkeypatch.setenv("ATTUNE_STORAGE_URL", "s3://attune/objects")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    revoked = attune("keys", "revoke", made["id"])
    assert "is revoked" in revoked.stdout
    assert "warning: The object storage cannot be used" in revoked.stderr
    assert "check ATTUNE_STORAGE_URL" in attune("storage", "check", code=4).stderr


def test_a_backup_of_a_damaged_database_is_one_line_and_its_exit_code(attune, tmp_path: Path) -> None:
    attune("keys", "create")
    (tmp_path / "data" / "attune.db").write_bytes(b"no database" * 1000)
    for suffix in ("-wal", "-shm"):
        (tmp_path / "data" / f"attune.db{suffix}").unlink(missing_ok=True)
    assert "cannot be used" in attune("backup", str(tmp_path / "backup"), code=4).stderr


def test_a_backup_that_does_not_fit_is_one_line_and_its_exit_code(attune, tmp_path: Path) -> None:
    attune("keys", "create")
    sizes = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, sizes[1]))  # the copy is larger
    try:
        failed = attune("backup", str(tmp_path / "backup"), code=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, sizes)
    assert "the database cannot be copied (" in failed.stderr
    assert not (tmp_path / "backup").exists()


def test_an_object_that_the_storage_lacks_is_named(attune, tmp_path: Path) -> None:
    assert "does not exist: name" in attune("storage", "check", code=2).stderr
    (tmp_path / "data").mkdir()  # by hand: the command creates nothing
    assert "The database is empty: name" in attune("storage", "check", code=2).stderr
    attune("keys", "create")
    assert "0 missing objects" in attune("storage", "check").stderr
    context = Context.open(load_settings(data_dir=tmp_path / "data"))
    file_id = a_file(context, a_project(context.database))
    context.storage.delete_prefix("files")
    context.database.dispose()
    (missing,) = json.loads(attune("storage", "check", "--json", code=6).stdout)["missing"]
    assert missing.endswith(file_id)
    assert missing in attune("storage", "check", code=6).stdout


def test_revoking_the_local_key_replaces_it(attune, tmp_path: Path) -> None:
    """The commands on this machine read the key from credentials.json, which `attune up` wrote."""
    attune("keys", "list")
    context = Context.open(load_settings(data_dir=tmp_path / "data"))
    before = keys.ensure_local(context, "http://127.0.0.1:8000/v1")
    (local,) = json.loads(attune("keys", "list", "--json").stdout)
    assert "has a new one" in attune("keys", "revoke", local["id"]).stderr
    credentials = json.loads(context.settings.credentials_file.read_text())
    assert credentials["base_url"] == "http://127.0.0.1:8000/v1"
    with context.database.read() as session:
        assert key_records.find_valid(session, credentials["api_key"]) is not None
        assert key_records.find_valid(session, str(before)) is None
    context.database.dispose()


@pytest.mark.parametrize(("name", "is_replaced"), [("local admin", True), ("put there by hand", False)])
def test_no_admin_key_becomes_an_operators(attune, tmp_path: Path, name: str, is_replaced: bool) -> None:
    """The local key of an older release is an admin's. The file gets another, and holders of the old one no rights."""
    context = Context.open(load_settings(data_dir=tmp_path / "data"))
    old = json.loads(attune("keys", "create", "--name", name, "--scope", "admin", "--json").stdout)
    address = {"base_url": "http://127.0.0.1:8000/v1", "api_key": old["api_key"]}
    context.settings.credentials_file.write_text(json.dumps(address))
    new = keys.ensure_local(context, address["base_url"])
    assert (new is not None) == is_replaced
    assert keys.ensure_local(context, address["base_url"]) is None, "only once"
    assert json.loads(context.settings.credentials_file.read_text())["api_key"] == (new or old["api_key"])
    live = [key["scope"] for key in json.loads(attune("keys", "list", "--json").stdout) if not key["revoked"]]
    assert live == ["admin", "operator"][: 1 + is_replaced]
    context.database.dispose()


def test_a_base_model_is_added_verified_and_removed_before_any_server_runs(
    attune, tiny_model: Path, tmp_path: Path
) -> None:
    (added,) = json.loads(attune("models", "add", "org/tiny", str(tiny_model), "--json").stdout)
    assert (added["name"], added["model_type"]) == ("org/tiny", "llama")
    assert "already" in attune("models", "add", "org/tiny", str(tiny_model), code=2).output
    attune("models", "verify", "org/tiny")
    weights = next((tmp_path / "data" / "objects" / "base").rglob("model.safetensors"))
    weights.write_bytes(b"\0" + weights.read_bytes()[1:])
    assert "model.safetensors" in attune("models", "verify", "org/tiny", code=1).output
    attune("models", "remove", "org/tiny")
    assert json.loads(attune("models", "list", "--json").stdout) == []
    assert not weights.exists()


def test_a_terminal_shows_the_conversion_and_then_the_model(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(command: list[str], folder: Path, timeout_s: float, source: str, report: Callable[..., None]) -> None:
        report("converting", 2048)
        shutil.copytree(tiny_base, folder / "model")  # the test above waits for a conversion, which imports torch

    monkeypatch.setattr(base_models, "_run", convert)
    monkeypatch.setattr(console.err, "is_interactive", True)  # decided at import, when there was no terminal
    monkeypatch.setenv("TERM", "xterm")
    code, shown = run_on_terminal("models", "add", "org/tiny", "tiny", "--data-dir", tmp_path / "data")
    assert code == 0, shown
    progress, _, model = shown.rpartition("\x1b[2K")  # the progress is wiped away
    assert re.search(r"(converting|storing) tiny: ", progress), shown
    assert re.search(r"^name +org/tiny\r$", model, re.MULTILINE), shown
    assert "\x1b" not in model


def test_what_nothing_names_is_only_told_unless_it_is_to_be_removed(attune, tmp_path: Path) -> None:
    attune("storage", "collect")
    orphan = tmp_path / "data" / "objects" / "models" / "ftjob-gone" / "1" / "w"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"123")
    os.utime(orphan, (0, 0))
    told = json.loads(attune("storage", "collect", "--json").stdout)
    assert {each["kind"]: each["orphan_bytes"] for each in told if each["orphans"]} == {"models": 3}
    assert "belong together" in attune("storage", "collect", "--remove", code=2).output
    assert orphan.exists()


def test_a_base_model_that_is_refused_is_refused_in_words(attune, tmp_path: Path) -> None:
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    refused = attune("models", "add", "a", str(tmp_path / "pickled"), code=2).output
    assert "safetensors" in refused
    assert refused.count("error: ") == 1


def test_commands_leave_a_schema_of_another_version_alone(attune, tmp_path: Path) -> None:
    attune("keys", "list")
    database = Database(f"sqlite:///{tmp_path / 'data' / 'attune.db'}")
    with database.engine.begin() as connection:
        command.downgrade(alembic_config(connection), "-1")
    assert "run `attune migrate` first" in attune("keys", "list", code=2).output
    attune("migrate")
    assert attune("keys", "list").exit_code == 0
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for arguments in (("keys", "list"), ("migrate",), ("up", "--port", "0")):
        output = attune(*arguments, code=2).output
        assert "schema of a newer version" in output
        assert "Traceback" not in output


def test_conversion_that_takes_too_long_is_ended(
    attune, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTUNE_CONVERT_SECONDS", "0.01")
    assert "set ATTUNE_CONVERT_SECONDS higher" in attune("models", "add", "a", str(tiny_model), code=2).output


def test_conversion_knows_the_hub_and_none_of_our_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = {"HF_TOKEN": "t", "https_proxy": "http://proxy", "PATH": "/bin"}
    kept_back = {"AWS_SECRET_ACCESS_KEY": "s", "ATTUNE_BROKER_URL": "redis://:p@h", "WANDB_API_KEY": "w"}
    monkeypatch.setattr(os, "environ", passed | kept_back)
    assert base_models._environment() == passed


@pytest.mark.parametrize("name", ["../up", "a b", "", "a/b/c", "x" * 200])
def test_a_models_name_is_a_name(attune, tiny_model: Path, name: str) -> None:
    assert "not a valid name for a model" in attune("models", "add", name, str(tiny_model), code=2).output


def test_a_setting_that_is_wrong_is_named(attune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTUNE_LEASE_S", "soon")
    assert "lease_s" in attune("keys", "list", code=2).output


def test_settings_that_contradict_each_other_are_named(attune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTUNE_LEASE_S", "10")
    assert "settings: heartbeat_s must be at most half of lease_s" in attune("keys", "list", code=2).output


def test_settings_come_from_flags_then_variables_then_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "attune.toml"
    file.write_text('port = 1\nhost = "file"\norganization = "file"\n')
    monkeypatch.setenv("ATTUNE_CONFIG", str(file))
    monkeypatch.setenv("ATTUNE_HOST", "variable")
    monkeypatch.setenv("ATTUNE_ORGANIZATION", "variable")
    settings = load_settings(organization="flag", port=None)
    assert (settings.port, settings.host, settings.organization) == (1, "variable", "flag")
