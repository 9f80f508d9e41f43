from pathlib import Path

import pytest

from tests.tiny_models import make_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("bases") / "llama", "llama", seed=5)
