"""Errors of commands: what they say, and their exit codes, which are a promise to scripts."""

import re
from pathlib import Path

import pytest

import api
from api.cli.errors import ExitCode
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
