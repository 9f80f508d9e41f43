"""What an installation without make does, in one process. Its argument is the folder of the installed packages.

test_wheel.py runs it where only the wheel can be imported.
"""

import re
import sys
from pathlib import Path

from fastapi.testclient import TestClient
from typer.testing import CliRunner

import examples
import worker.app  # noqa: F401 (the worker process starts with it)
from api.cli.main import app
from api.main import create_app
from api.settings import Settings

PACKAGES = ("api", "worker", "migrations", "examples")


def attune(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


rows = Path(next(iter(examples.__path__)), "rows.jsonl")
attune("--help")
attune("files", "check", str(rows))
attune("migrate", "--data-dir", "data")
key = attune("keys", "create", "--data-dir", "data").split()[-1]
with TestClient(create_app(Settings(data_dir=Path("data")))) as client:
    assets = re.findall(r'(?:src|href)="(/assets/[^"]+)"', client.get("/").text)
    assert len(assets) > 1, assets
    pages = re.findall(r'href="(/docs/[^"]+)"', client.get("/docs").text)
    assert {"/docs/tutorial", "/docs/changelog", "/docs/internals/queue"} <= {*pages}
    for path in ("/readyz", "/openapi.json", "/v1/fine_tuning/catalog", *assets, *pages):
        client.get(path, headers={"Authorization": f"Bearer {key}"}).raise_for_status()
folder = Path(sys.argv[1])
for name, module in sys.modules.items():
    if name.partition(".")[0] in PACKAGES:
        assert module.__spec__ is not None
        places = module.__spec__.submodule_search_locations or [str(module.__spec__.origin)]
        assert all(Path(place).is_relative_to(folder) for place in places), module
