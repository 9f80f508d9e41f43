"""`attune files`, against a real HTTP server."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from api.cli.errors import ExitCode
from api.cli.uploads import MAX_PARTS, PART_BYTES, part_bytes
from tests.api.cli.conftest import FILE, FakeServer, attune

ROW = b'{"text": "a"}\n'
CONTENT = b'{"prompt":"a"}\n\x1b[31mred\n'
"""Of the file that the server has."""


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


def test_a_pipe_is_refused_because_its_length_is_unknown(server: FakeServer) -> None:
    reader, writer = os.pipe()
    os.write(writer, ROW)
    os.close(writer)
    result = attune("files", "upload", f"/dev/fd/{reader}")
    os.close(reader)
    assert result.exit_code == ExitCode.REFUSED
    assert "is a pipe" in result.stderr
    assert server.requests == []


def test_content_passes_the_bytes_on_unchanged_where_no_terminal_reads_them(server: FakeServer) -> None:
    assert attune("files", "content", "file-1").stdout_bytes == CONTENT


def test_content_with_another_hash_is_not_kept(server: FakeServer, tmp_path: Path) -> None:
    server.listed_sha256 = {"file-1": "0" * 64}
    assert attune("files", "content", "file-1", "--output", tmp_path / "copy").exit_code == ExitCode.CORRUPT
    assert list(tmp_path.iterdir()) == []


def test_content_can_be_saved(server: FakeServer, tmp_path: Path) -> None:
    attune("files", "content", "file-1", "--output", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT


def test_an_interrupted_download_of_content_is_resumed(server: FakeServer, tmp_path: Path) -> None:
    server.listed_sha256 = {"file-1": hashlib.sha256(CONTENT).hexdigest()}
    (tmp_path / "copy.part").write_bytes(CONTENT[:5])
    for _ in range(2):
        assert attune("files", "content", "file-1", "--output", tmp_path / "copy").exit_code == ExitCode.OK
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"copy": CONTENT}
    assert (server.ranges, server.requests.count("GET /v1/files/file-1/content")) == (["bytes=5-"], 1)


def test_a_file_that_the_project_has_is_not_uploaded_again(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(ROW)
    server.files = [FILE | {"sha256": hashlib.sha256(ROW).hexdigest(), "expires_at": None}]
    result = attune("jobs", "create", path, "--model", "tiny")
    assert "already on the server as file-1" in result.stderr
    assert (server.uploaded, server.created) == (None, {"model": "tiny", "training_file": "file-1"})


@pytest.mark.parametrize(
    ("refused", "deletion", "note"),
    [
        (403, {}, "Deleted file-1"),
        (429, {}, "Deleted file-1"),
        (429, {"DELETE /v1/files/file-1": 503}, "Delete it later with: attune files delete file-1"),
        (503, {}, None),
    ],
)
def test_the_file_of_a_refused_batch_is_deleted_and_the_refusal_stays_the_error(
    server: FakeServer, tmp_path: Path, refused: int, deletion: dict[str, int], note: str | None
) -> None:
    (path := tmp_path / "requests.jsonl").write_bytes(ROW)
    server.refuses = {"POST /v1/batches": refused} | deletion
    result = attune("batches", "create", path)
    assert result.exit_code == (ExitCode.NOT_AUTHORIZED if refused == 403 else ExitCode.UNAVAILABLE)
    assert "not now: POST /v1/batches" in result.stderr.splitlines()[-1]
    assert ("DELETE /v1/files/file-1" in server.requests) == (note is not None)
    assert note is None or note in result.stderr


def test_a_file_that_will_expire_is_uploaded_again(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(ROW)
    server.files = [FILE | {"sha256": hashlib.sha256(ROW).hexdigest(), "expires_at": 2}]
    attune("jobs", "create", path, "--model", "tiny")
    assert server.uploaded is not None


def test_check_names_every_error_with_its_line_and_needs_no_server(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(ROW + b"not json\n" + ROW.replace(b"text", b"texts"))
    result = attune("files", "check", path)
    assert result.exit_code == ExitCode.REFUSED
    lines = [line.split("\t")[:2] for line in result.stdout.splitlines()]
    assert lines[1:3] == [["2", "error"], ["3", "error"]]
    assert "3 rows, format text, checked for supervised; 2 errors" in result.stdout
    path.write_bytes(ROW)
    assert attune("files", "check", path).exit_code == ExitCode.OK


def test_check_of_a_folder_is_refused(tmp_path: Path) -> None:
    assert "is not a file" in attune("files", "check", tmp_path).stderr


@pytest.mark.parametrize("size", [1, 2**30, 2**40, 2**43])
def test_every_file_fits_into_the_parts_of_an_upload(size: int) -> None:
    assert part_bytes(size) >= PART_BYTES
    assert part_bytes(size) * MAX_PARTS >= size
