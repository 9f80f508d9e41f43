"""`attune doctor`: each broken component is named, with what to do."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from api.cli.main import app
from api.cli.stages import runnable_stages
from api.records import Database
from api.records.migrate import migrate
from api.services import diagnosis
from api.services.diagnosis import Check, check_clock, check_components, check_data_folder
from api.settings import Settings
from tests.api.cli.conftest import FakeServer, attune, refusal


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A deployment in a folder of its own, that `attune up` has used and left."""
    settings = Settings(data_dir=tmp_path)
    database = Database(settings.database)
    migrate(database)
    database.dispose()
    (tmp_path / "objects").mkdir()
    return settings


def checks(settings: Settings, **changes: object) -> dict[str, Check]:
    return {check.component: check for check in check_components(settings.model_copy(update=changes))}


def test_a_stopped_service_lacks_only_its_broker(settings: Settings) -> None:
    found = checks(settings)
    assert [name for name, check in found.items() if check.status == "problem"] == ["broker"]
    assert found["broker"].remedy is not None
    assert "attune up" in found["broker"].remedy


def test_a_running_broker_is_asked(settings: Settings, valkey_url: str) -> None:
    assert checks(settings, broker_url=_secret(valkey_url))["broker"].status == "ok"
    wrong = checks(settings, broker_url=_secret("redis://:secret@127.0.0.1:1/0"))["broker"]
    assert wrong.status == "problem"
    assert "secret" not in wrong.detail
    assert wrong.remedy == "Start it, or correct ATTUNE_BROKER_URL."


def test_a_database_that_does_not_answer_is_named_without_its_password(settings: Settings) -> None:
    found = checks(settings, database_url="postgresql://user:secret@127.0.0.1:1/name")["database"]
    assert (found.status, found.remedy) == ("problem", "Start it, or correct ATTUNE_DATABASE_URL.")
    assert "secret" not in found.detail


def test_a_damaged_database_file_is_to_be_restored(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "damaged.db").write_bytes(b"no database " * 1000)
    found = checks(settings, database_url=f"sqlite:///{tmp_path}/damaged.db")["database"]
    assert (found.status, found.remedy) == (
        "problem",
        "Restore a backup if the file is damaged, or end the program that locks it.",
    )


def test_a_database_without_a_schema_is_to_be_migrated(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    found = checks(settings, database_url=f"sqlite:///{tmp_path}/empty.db")["schema"]
    assert (found.status, found.remedy) == ("problem", "Run `attune migrate` first.")


def test_credentials_that_others_can_read_are_a_problem(settings: Settings) -> None:
    settings.credentials_file.write_text("{}")
    settings.credentials_file.chmod(0o644)
    assert "chmod 600" in str(checks(settings)["data folder"].remedy)


def test_a_database_that_others_can_read_is_a_problem(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "attune.db").chmod(0o644)
    assert check_data_folder(settings).status == "ok", "the folder is closed"
    tmp_path.chmod(0o755)
    assert "chmod 700" in str(check_data_folder(settings).remedy)


def test_a_data_folder_that_only_workers_need_may_be_missing(settings: Settings, tmp_path: Path) -> None:
    missing = {"data_dir": tmp_path / "none", "database_url": "postgresql://127.0.0.1:1/none"}
    assert check_data_folder(settings.model_copy(update=missing)).status == "ok"
    assert check_data_folder(settings.model_copy(update={"data_dir": tmp_path / "none"})).remedy is not None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_storage_that_takes_no_objects_is_a_problem(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "objects").chmod(0o500)
    assert checks(settings)["storage"].status == "problem"


def test_little_space_is_a_warning_and_none_a_problem(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, status in (("LOW_DISK_BYTES", "warning"), ("NO_DISK_BYTES", "problem")):
        monkeypatch.setattr(diagnosis, limit, 10**18)
        assert checks(settings)["disk"].status == status


@pytest.mark.parametrize(("seconds", "status"), [(0, "ok"), (-30, "warning"), (4000, "problem")])
def test_clocks_may_differ_by_seconds(seconds: float, status: str) -> None:
    assert check_clock(seconds, "server").status == status


def test_without_the_libraries_that_load_models_no_worker_that_needs_them_starts(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {"train", "sample"} < {*runnable_stages(settings)}
    monkeypatch.setattr(diagnosis, "TRAINER_LIBRARIES", ("torch", "no_such_library"))
    assert runnable_stages(settings) == ["prepare", "batch", "evaluate", "deliver"]
    assert "no_such_library not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "status", "detail"),
    [
        (None, "problem", "2 on this machine, but torch"),
        ("1", "problem", "1 on this machine, but torch"),
        ("", "ok", "hidden by CUDA_VISIBLE_DEVICES"),
        ("-1", "ok", "hidden by CUDA_VISIBLE_DEVICES"),
    ],
)
def test_gpus_that_torch_cannot_use_are_a_problem(
    variable: str | None, status: str, detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's device_count finds them all if only their driver is too old. The stand-in for torch does, too."""
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    (tmp_path / "torch.py").write_text(
        "class cuda: is_available, device_count = lambda: False, lambda: 2\nclass version: cuda = '13.0'\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(diagnosis, "NVIDIA", tmp_path / "gpus")
    if variable is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    found = diagnosis._check_gpus()
    assert (found.status, found.detail[: len(detail)]) == (status, detail)


def test_a_client_without_a_server_is_told_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("ATTUNE_BASE_URL", "ATTUNE_API_KEY", "ATTUNE_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "attune up" in result.stdout


def test_the_error_of_a_server_is_not_cut_at_its_colons(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "The key has expired: its last day was 2026-01-02, 10: 30."
    monkeypatch.setattr(server, "get", lambda path, query: (403, refusal(message)))
    found = json.loads(attune("doctor", "--base-url", server.base_url, "--json").stdout)["data"][0]
    assert (found["detail"], found["remedy"]) == (message, None)


def test_a_server_that_cannot_be_reached_has_a_remedy() -> None:
    line = ("doctor", "--base-url", "http://127.0.0.1:1", "--api-key", "sk-test", "--json")
    found = json.loads(attune(*line).stdout)["data"][0]
    assert (found["detail"], found["remedy"]) == (
        "cannot reach http://127.0.0.1:1/v1",
        "Start it with `attune up`, or in production with `attune api`",
    )


def test_a_key_that_the_server_refuses_is_the_problem_and_not_the_server(server: FakeServer) -> None:
    result = attune("doctor", "--base-url", server.base_url, "--api-key", "sk-wrong", "--json")
    assert [check["component"] for check in json.loads(result.stdout)["data"]] == ["key"]


def _secret(text: str) -> object:
    return Settings(broker_url=text).broker_url
