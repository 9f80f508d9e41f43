"""What the trainer's libraries are told, and whether they are those that it is written for."""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from api.infra.child_environment import child_environment, installed_allocator
from worker.shared import torch_version
from worker.shared.torch_version import UnsupportedTorch, require_torch

SHOWN = ("CUBLAS_WORKSPACE_CONFIG", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "GOMP_SPINCOUNT")
SHOW = f"import worker.engine.openmp, os; print([os.environ.get(name) for name in {SHOWN}])"


def told(**environment: str) -> list[str | None]:
    kept = {name: value for name, value in os.environ.items() if name not in SHOWN}
    done = subprocess.run(
        [sys.executable, "-c", SHOW], env=kept | environment, capture_output=True, text=True, check=True
    )
    return list(eval(done.stdout))


def test_cuda_is_told_how_to_allocate_and_to_repeat_its_sums() -> None:
    assert told() == [":4096:8", "expandable_segments:True", None, "10000"]


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_what_an_operator_says_of_the_allocator_stays(name: str) -> None:
    expected = [None, "max_split_size_mb:64"] if name == SHOWN[2] else ["max_split_size_mb:64", None]
    assert told(**{name: "max_split_size_mb:64"})[1:3] == expected


@pytest.mark.parametrize("name", ["CUBLAS_WORKSPACE_CONFIG", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_and_reaches_the_trainer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "as asked")
    assert child_environment("0", 1)[name] == "as asked"


def test_gpus_are_numbered_as_the_driver_lists_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    assert child_environment("1", None)["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_an_installed_tcmalloc_is_loaded_on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = tmp_path / "x86_64-linux-gnu" / "libtcmalloc_minimal.so.4"
    library.parent.mkdir()
    library.touch()
    monkeypatch.setattr("api.infra.child_environment.LIBRARIES", (tmp_path / "none", tmp_path))
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    installed_allocator.cache_clear()
    try:
        assert child_environment()["LD_PRELOAD"] == str(library)
        assert "LD_PRELOAD" not in child_environment("0")
        monkeypatch.setenv("LD_PRELOAD", "")
        assert child_environment()["LD_PRELOAD"] == "", "the operator wants glibc's"
    finally:
        installed_allocator.cache_clear()


@pytest.mark.parametrize("found", ["2.12.0", "2.13.0+cpu", "3.0.1"])
def test_newer_torch_is_taken(found: str) -> None:
    require_torch(found)


@pytest.mark.parametrize("found", ["2.10.0", "2.11.3+cu128", "1.13"])
def test_older_torch_is_refused_with_what_to_install(found: str) -> None:
    with pytest.raises(UnsupportedTorch, match=r"too old: packed attention needs 2\.12"):
        require_torch(found)


def test_a_missing_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr(torch_version, "version", missing)
    with pytest.raises(UnsupportedTorch, match="needs torch"):
        require_torch()
