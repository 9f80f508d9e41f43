"""`attune adapters download`: only whole, verified files are left in the folder."""

from pathlib import Path

import pytest

from api.cli.errors import ExitCode
from tests.api.cli.conftest import MODEL, FakeServer, attune, job

FILES = {"adapter_model.safetensors": b"weights" * 1000, "adapter_config.json": b"{}"}


@pytest.mark.parametrize("source", ["ftjob-1", MODEL])
def test_a_job_and_its_model_download_the_same_files(server: FakeServer, tmp_path: Path, source: str) -> None:
    server.artifacts, server.scenes = FILES, [(job("succeeded"), [])]
    assert attune("adapters", "download", source, "--output", tmp_path / "a").exit_code == ExitCode.OK
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == FILES


def test_the_merged_model_is_fetched_into_a_folder_of_its_own(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server.artifacts = FILES | {"merged/model.safetensors": b"whole", "merged/config.json": b"{}"}
    assert attune("adapters", "download", MODEL, "--merged").exit_code == ExitCode.OK
    folder = tmp_path / "ft-tiny-attune-abcd1234-merged"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "model.safetensors": b"whole",
        "config.json": b"{}",
    }


def test_the_folder_is_named_after_the_model(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server.artifacts = FILES
    attune("adapters", "download", MODEL)
    assert [path.name for path in tmp_path.iterdir()] == ["ft-tiny-attune-abcd1234"]


def test_what_is_already_there_is_not_fetched_again(server: FakeServer, tmp_path: Path) -> None:
    server.artifacts = FILES
    for _ in range(2):
        assert attune("adapters", "download", MODEL, "-o", tmp_path).exit_code == ExitCode.OK
    assert sum("adapter_model" in request for request in server.requests) == 1


def test_a_file_with_another_hash_is_not_kept(server: FakeServer, tmp_path: Path) -> None:
    server.artifacts, server.listed_sha256 = FILES, {"adapter_model.safetensors": "0" * 64}
    result = attune("adapters", "download", MODEL, "-o", tmp_path)
    assert result.exit_code == ExitCode.CORRUPT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../escaped", "/etc/escaped", ".bashrc", "a\\b", "tab\t", "sub/file"])
def test_a_listed_name_that_is_no_plain_file_name_is_refused(server: FakeServer, tmp_path: Path, name: str) -> None:
    server.artifacts = {name: b"x"}
    assert attune("adapters", "download", MODEL, "-o", tmp_path / "in").exit_code == ExitCode.CORRUPT
    assert list(tmp_path.rglob("*escaped*")) == []


def test_a_merged_name_that_leaves_the_folder_is_refused(server: FakeServer, tmp_path: Path) -> None:
    server.artifacts = {"merged/../escaped": b"x"}
    result = attune("adapters", "download", MODEL, "--merged", "-o", tmp_path / "in")
    assert result.exit_code == ExitCode.CORRUPT
    assert list(tmp_path.rglob("*escaped*")) == []


def test_a_job_without_a_model_says_so(server: FakeServer) -> None:
    result = attune("adapters", "download", "ftjob-1")
    assert result.exit_code == ExitCode.REFUSED
    assert "ftjob-1 is running" in result.stderr


def test_a_folder_that_cannot_be_made_is_named_in_one_line(server: FakeServer, tmp_path: Path) -> None:
    server.artifacts = FILES
    (tmp_path / "file").write_text("")
    result = attune("adapters", "download", MODEL, "--output", tmp_path / "file" / "folder")
    assert result.exit_code == ExitCode.REFUSED
    assert "Traceback" not in result.output


def test_the_gguf_file_is_fetched_alone(server: FakeServer, tmp_path: Path) -> None:
    server.artifacts = FILES | {"gguf/model-f16.gguf": b"whole"}
    assert attune("adapters", "download", MODEL, "--gguf", "-o", tmp_path / "in").exit_code == ExitCode.OK
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["model-f16.gguf"]
    assert attune("adapters", "download", MODEL, "--gguf", "--merged").exit_code == ExitCode.REFUSED


@pytest.mark.parametrize("part", [b"weights" * 300, b"of another file"])
def test_an_interrupted_download_is_resumed_or_else_begun_again(
    server: FakeServer, tmp_path: Path, part: bytes
) -> None:
    server.artifacts = FILES
    (tmp_path / "adapter_model.safetensors.part").write_bytes(part)
    assert attune("adapters", "download", MODEL, "-o", tmp_path).exit_code == ExitCode.OK
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == FILES
    assert server.ranges[0] == f"bytes={len(part)}-"
