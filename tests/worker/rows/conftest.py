from pathlib import Path

import pytest

from tests.worker import bases


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model's folder without weights."""
    return bases.base(tmp_path_factory.mktemp("bases") / "base")
