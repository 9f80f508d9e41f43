"""Fixtures of the trainer's tests. One thread: several test processes share few cores, and threads that wait for each
other there cost far more than they gain."""

import os
import secrets
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """torch is imported by now, or reads the variable when it is."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


@pytest.fixture
def seed() -> int:
    """Another one in each run; pytest prints it when a test fails."""
    seed = int(os.environ.get("ATTUNE_TEST_SEED") or secrets.randbelow(2**31))
    print(f"ATTUNE_TEST_SEED={seed}")
    return seed


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny base model of each family."""
    from tests.tiny_models import FAMILIES, make_model  # noqa: PLC0415 (brings torch, which `make quick` does without)

    folder = tmp_path_factory.mktemp("bases")
    return {family: make_model(folder / family, family) for family in FAMILIES}


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny_models import make_model  # noqa: PLC0415

    return make_model(tmp_path_factory.mktemp("bases") / "llama", "llama")
