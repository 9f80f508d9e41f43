"""What the clients are given."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.clients.proxy import Proxy, proxy_before
from tests.services import AttuneUp


@pytest.fixture(scope="module")
def proxy(live_server: AttuneUp) -> Iterator[Proxy]:
    with proxy_before(live_server.base_url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def read_only_key(live_server: AttuneUp) -> str:
    return live_server.run("keys", "create", "--scope", "read", "--data-dir", str(live_server.data)).strip()


@pytest.fixture(scope="module")
def training_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty rows."""
    return _rows(tmp_path_factory.mktemp("rows") / "training.jsonl", 20)


@pytest.fixture(scope="module")
def too_short_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _rows(tmp_path_factory.mktemp("rows") / "short.jsonl", 3)


def _rows(path: Path, count: int) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": f"{n}+1"}, {"role": "assistant", "content": f"{n + 1}"}]}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
