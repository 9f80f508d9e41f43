"""`attune files`, against a real HTTP server."""

import json
from pathlib import Path

from api.cli.errors import ExitCode
from tests.api.cli.conftest import FakeServer, attune


def test_upload_sends_the_bytes_and_names_the_file(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "a", "completion": "b"}\n' * 1000)
    result = attune("files", "upload", path, "--json")
    assert json.loads(result.stdout)["id"] == "file-1"
    assert server.uploaded is not None
    assert path.read_bytes() in server.uploaded


def test_a_file_that_is_not_there_is_refused(server: FakeServer) -> None:
    result = attune("files", "upload", "absent.jsonl")
    assert result.exit_code == ExitCode.REFUSED
    assert server.requests == []


def test_content_passes_the_bytes_on_unchanged_where_no_terminal_reads_them(server: FakeServer) -> None:
    assert attune("files", "content", "file-1").stdout_bytes == b'{"prompt":"a"}\n\x1b[31mred\n'


def test_content_can_be_saved(server: FakeServer, tmp_path: Path) -> None:
    attune("files", "content", "file-1", "--output", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b'{"prompt":"a"}\n\x1b[31mred\n'
