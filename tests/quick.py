"""The selection of `make quick`, a pytest plugin: no torch, child processes, PostgreSQL, S3 or running Attune.

The imports and fixtures of a test show what it needs, so that a new test is selected or left out without a list.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.source import ROOT, dotted, imports, reaches, within

BASES = frozenset({"tiny_model", "tiny_base", "tiny_llama", "bases", "smollm2"})
SLOW = BASES | {"postgres", "s3", "postgres_url", "s3_url", "live_server"}
PARAMETERS = frozenset({"production", "postgres", "s3"})
"""Parameters of the fixtures `settings`, `database_url` and `storage_url`."""
HEAVY = frozenset({"torch", "transformers", "trl", "tensorboardX", "mlflow", "wandb"})
"""torch, libraries that import it, and trackers that start a process or set up a database of their own."""
FOLDERS = ("end_to_end", "benchmarks", "browser", "examples")
LEFT_OUT = pytest.StashKey[frozenset[str]]()


def pytest_configure(config: pytest.Config) -> None:
    shared = getattr(config, "workerinput", None)
    config.stash[LEFT_OUT] = frozenset(shared["left_out"] if shared else map(str, heavy_files()))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass the files to a process of pytest-xdist: one process reads the source for all of them."""
    node.workerinput["left_out"] = [*node.config.stash[LEFT_OUT]]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.is_dir():
        return collection_path.name in FOLDERS or None
    return str(collection_path) in config.stash[LEFT_OUT] or None


def heavy_files() -> list[Path]:
    """Return the files whose tests load torch or start processes."""
    return [path for path in (ROOT / "tests").rglob("test_*.py") if _is_heavy(dotted(path))]


def _is_heavy(module: str) -> bool:
    return bool(HEAVY & reaches(module)) or _starts_processes(module)


def _starts_processes(module: str) -> bool:
    """Whether the test or a helper of it does. The servers of `tests.services` are fixtures, and judged as such, unless
    the test starts a process by itself."""
    if "tests.services.process" in imports(module):
        return True
    helpers = [name for name in reaches(module) if within(name, ("tests",)) and not within(name, ("tests.services",))]
    return any(imports(helper) & {"subprocess", "api.infra.child_process"} for helper in helpers)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = {item for item in items if _is_slow(item)}
    config.hook.pytest_deselected(items=[*slow])
    items[:] = [item for item in items if item not in slow]


def _is_slow(item: pytest.Item) -> bool:
    fixtures = set(getattr(item, "fixturenames", ()))
    callspec = getattr(item, "callspec", None)
    parameters = {each for each in callspec.params.values() if isinstance(each, str)} if callspec else set()
    return bool(fixtures & SLOW or parameters & PARAMETERS)
