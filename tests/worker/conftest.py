"""Fixtures of the trainer's tests. One thread: several test processes share few cores, and threads that wait for each
other there cost far more than they gain."""

import os
import secrets
from pathlib import Path

import pytest
import torch

from tests.tiny_models import FAMILIES, make_model


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture
def seed() -> int:
    """Another one in each run; pytest prints it when a test fails."""
    seed = int(os.environ.get("ATTUNE_TEST_SEED") or secrets.randbelow(2**31))
    print(f"ATTUNE_TEST_SEED={seed}")
    return seed


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny base model of each family."""
    folder = tmp_path_factory.mktemp("bases")
    return {family: make_model(folder / family, family) for family in FAMILIES}


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("bases") / "llama", "llama")
