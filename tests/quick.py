"""The selection of `make quick`, a pytest plugin: no torch, child processes, PostgreSQL, S3 or running Attune.

The imports and fixtures of a test show what it needs, so that a new test is selected or left out without a list.
"""

from pathlib import Path

import pytest

from tests.source import ROOT, imports, reaches, within

SLOW = frozenset({"postgres", "s3", "postgres_url", "s3_url", "tiny_model", "tiny_base", "smollm2", "live_server"})
PARAMETERS = frozenset({"production", "postgres", "s3"})
"""Parameters of the fixtures `settings`, `database_url` and `storage_url`."""
TORCH = frozenset({"torch", "transformers", "trl", "tensorboardX"})
"""torch, and libraries that import it."""
FOLDERS = ("end_to_end", "benchmarks", "browser", "examples")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    if collection_path.is_dir():
        return collection_path.name in FOLDERS or None
    if not collection_path.name.startswith("test_"):
        return None
    module = ".".join(collection_path.relative_to(ROOT).with_suffix("").parts)
    return bool(TORCH & reaches(module)) or _starts_processes(module) or None


def _starts_processes(module: str) -> bool:
    """Whether the test or a helper of it does. The servers of `tests.services` are fixtures, and judged as such, unless
    the test starts a process by itself."""
    if "tests.services.process" in imports(module):
        return True
    helpers = [name for name in reaches(module) if within(name, ("tests",)) and not within(name, ("tests.services",))]
    return any("subprocess" in imports(helper) for helper in helpers)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = [item for item in items if _is_slow(item)]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


def _is_slow(item: pytest.Item) -> bool:
    fixtures = set(getattr(item, "fixturenames", ()))
    callspec = getattr(item, "callspec", None)
    parameters = {each for each in callspec.params.values() if isinstance(each, str)} if callspec else set()
    return bool(fixtures & SLOW or parameters & PARAMETERS)
