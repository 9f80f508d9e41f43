"""`attune login`, `logout` and `whoami`: the key is stored only if it works, and only its owner can read it."""

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from api.cli.connect import find_server, login_file
from api.cli.errors import CommandError, ExitCode
from api.cli.main import app
from tests.api.cli.conftest import KEY, FakeServer, attune


@pytest.fixture(autouse=True)
def _elsewhere(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder and a home without any credentials."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("ATTUNE_BASE_URL", "ATTUNE_API_KEY", "ATTUNE_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


def log_in(server: FakeServer, key: str = KEY):
    return CliRunner().invoke(app, ["login", server.base_url.removesuffix("/v1")], input=f"{key}\n")


def test_later_commands_use_the_stored_server_and_key(server: FakeServer) -> None:
    assert log_in(server).exit_code == ExitCode.OK
    assert stat.S_IMODE(login_file().stat().st_mode) == 0o600
    assert attune("jobs", "list").exit_code == ExitCode.OK
    assert attune("logout").exit_code == ExitCode.OK
    assert "attune login" in attune("jobs", "list").stderr


def test_a_key_that_the_server_refuses_is_not_stored(server: FakeServer) -> None:
    assert log_in(server, "sk-wrong").exit_code == ExitCode.NOT_AUTHORIZED
    assert not login_file().exists()


def test_nothing_is_asked_for_without_a_terminal(server: FakeServer) -> None:
    result = CliRunner().invoke(app, ["login", server.base_url], input="")
    assert result.exit_code == ExitCode.NOT_AUTHORIZED
    assert "standard input" in result.stderr


def test_logout_without_a_login_is_refused() -> None:
    assert "no stored login" in attune("logout").stderr


def write(path: Path, url: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"base_url": url, "api_key": url[-1] * 8}))


def test_options_precede_variables_then_the_local_server_then_the_login(monkeypatch: pytest.MonkeyPatch) -> None:
    write(login_file(), "http://login/4")
    assert find_server(None, None, None).url == "http://login/4"
    write(Path("attune-data/credentials.json"), "http://local/3")
    assert find_server(None, None, None).url == "http://local/3"
    monkeypatch.setenv("ATTUNE_BASE_URL", "http://variable/2")
    monkeypatch.setenv("ATTUNE_API_KEY", "key-2")
    assert find_server(None, None, None).url == "http://variable/2"
    option = find_server("http://option/1", "key-1", None)
    assert (option.url, option.key, option.url_source) == ("http://option/1", "key-1", "--base-url")


def test_a_stored_key_is_sent_to_its_own_server_only() -> None:
    write(login_file(), "http://login/4")
    assert find_server("http://login/4", None, None).key == "4" * 8
    with pytest.raises(CommandError) as raised:
        find_server("http://other/5", None, None)
    assert raised.value.code is ExitCode.NOT_AUTHORIZED


def test_login_names_a_server_of_this_folder_that_has_precedence(server: FakeServer) -> None:
    write(Path("attune-data/credentials.json"), "http://local/3")
    assert "has precedence" in log_in(server).stderr


def test_whoami_names_the_sources(server: FakeServer) -> None:
    log_in(server)
    shown = attune("whoami").stdout
    assert str(login_file()) in shown
    assert "project  team" in shown
