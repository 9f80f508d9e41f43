"""Errors of commands: what they say, and their exit codes, which are a promise to scripts."""

import re
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest
from typer.testing import CliRunner

import api
from api.cli.errors import ExitCode
from api.cli.main import app
from tests.api.cli.conftest import FakeServer, attune


def test_the_docs_list_every_exit_code() -> None:
    page = (Path(api.__file__).parents[1] / "docs" / "command-line.md").read_text()
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == list(ExitCode)


def test_an_error_of_the_server_names_the_request(server: FakeServer) -> None:
    server.outages = 1
    result = attune("jobs", "list")
    assert (result.exit_code, result.stderr) == (ExitCode.UNAVAILABLE, "error: starting (request: req_1)\n")
    assert "req_1" not in attune("jobs", "get", "unknown").stderr


def test_a_response_of_a_proxy_is_not_taken_for_one_of_attune(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "get", lambda path, query: (502, b"<html>"))
    result = attune("jobs", "list")
    assert result.exit_code == ExitCode.UNAVAILABLE
    assert "502 Bad Gateway (request: req_1): the response is not Attune's" in result.stderr


def test_a_server_that_is_too_slow_is_a_problem_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpx.Client, "request", Mock(side_effect=httpx.ReadTimeout("")))
    result = attune("jobs", "list", "--base-url", "http://127.0.0.1:1", "--api-key", "sk-test")
    assert result.exit_code == ExitCode.UNAVAILABLE
    assert "did not respond in time: `attune doctor` checks the server" in result.stderr


@pytest.mark.parametrize("command", ["api", "migrate", "keys list"])
def test_a_database_that_cannot_be_used_is_one_line_without_its_password(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTUNE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("ATTUNE_DATABASE_URL", "postgresql://me:secret@127.0.0.1:1/none")
    # Its stderr is the runner's, which is closed after this test: later tests could not log.
    monkeypatch.setattr("api.cli.serve.configure_logging", lambda level: None)
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == ExitCode.UNAVAILABLE, result.output
    assert result.stderr.startswith("error: The database postgresql://me:***@127.0.0.1:1/none cannot be used (")
    assert "\n" not in result.stderr.strip()
