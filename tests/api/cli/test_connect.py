"""Where the client commands connect, with which key, and what they say when that fails."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import api
from api.cli.client import connection
from api.cli.connect import connect
from api.cli.errors import CommandError, ExitCode
from tests.api.cli.conftest import KEY, FakeServer, attune


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ATTUNE_BASE_URL", "ATTUNE_API_KEY", "ATTUNE_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


def write_credentials(folder: Path, base_url: str, key: str = KEY) -> None:
    folder.mkdir()
    (folder / "credentials.json").write_text(json.dumps({"base_url": base_url, "api_key": key}))


@pytest.mark.parametrize("folder", ["attune-data", "elsewhere"])
def test_a_local_service_is_found_by_its_data_folder(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.delenv("ATTUNE_BASE_URL")
    monkeypatch.delenv("ATTUNE_API_KEY")
    write_credentials(tmp_path / folder, server.base_url)
    monkeypatch.setenv("ATTUNE_DATA_DIR", folder)
    assert attune("jobs", "list").exit_code == ExitCode.OK


def test_the_local_key_is_not_sent_to_another_server(tmp_path: Path) -> None:
    write_credentials(tmp_path / "attune-data", "http://127.0.0.1:1/v1")
    with pytest.raises(CommandError) as raised:
        connect("http://elsewhere.example/v1", None, None)
    assert raised.value.code is ExitCode.NOT_AUTHORIZED


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1/"])
def test_the_address_may_be_given_with_or_without_the_version(url: str) -> None:
    with connect(url, KEY, None) as client:
        assert client.base_url == "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize("url", ["ftp://host", "localhost:8000", "http://", "http://host:port"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(CommandError) as raised:
        connect(url, KEY, None)
    assert raised.value.code is ExitCode.REFUSED


def test_without_any_server_it_says_how_to_name_one() -> None:
    result = attune("jobs", "list")
    assert result.exit_code == ExitCode.REFUSED
    assert "attune up" in result.stderr


def test_a_server_that_is_not_there_is_one_line_and_its_exit_code() -> None:
    result = attune("jobs", "list", "--base-url", "http://127.0.0.1:1", "--api-key", KEY)
    assert result.exit_code == ExitCode.UNAVAILABLE
    assert len(result.stderr.splitlines()) == 1


def test_a_wrong_key_is_not_authorized(server: FakeServer) -> None:
    result = attune("jobs", "list", "--base-url", server.base_url, "--api-key", "sk-wrong")
    assert result.exit_code == ExitCode.NOT_AUTHORIZED


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::]"])
def test_no_proxy_is_between_a_command_and_its_own_machine(host: str) -> None:
    assert connection(f"http://{host}:8000/v1")["trust_env"] is False


@pytest.mark.parametrize("key", ["sk-attune-abcd\N{HORIZONTAL ELLIPSIS}", "sk attune", "sk-attune\r\nx: y"])
def test_a_key_that_no_header_can_hold_is_named(server: FakeServer, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("ATTUNE_API_KEY", key)
    result = attune("jobs", "list", "--base-url", server.base_url)
    assert result.exit_code == ExitCode.NOT_AUTHORIZED
    assert result.stderr.startswith("error: ATTUNE_API_KEY does not hold an API key")


def test_space_around_a_key_is_not_part_of_it(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTUNE_API_KEY", f"{KEY}\r")
    assert attune("jobs", "list", "--base-url", server.base_url).exit_code == ExitCode.OK


def test_the_client_commands_start_without_the_heavy_libraries() -> None:
    heavy = "{'torch', 'transformers', 'sqlalchemy', 'fastapi', 'celery', 'pydantic', 'numpy'}"
    code = f"import sys, api.cli.jobs, api.cli.files, api.cli.adapters; print({heavy} & set(sys.modules))"
    root = Path(api.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
