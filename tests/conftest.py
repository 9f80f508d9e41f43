"""Real parts for every test: databases, broker, object storage, a whole server. Started when first asked for.

With pytest-xdist each process has servers of its own: all of them together start in two seconds, and nothing is shared.
"""

import gc
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import hypothesis
import pytest
from xdist.scheduler import LoadFileScheduling

import worker.engine.openmp  # noqa: F401  (before torch, as in every program)
from api.context import Context
from api.infra.storage import Storage
from api.records import Database
from api.records.migrate import migrate
from api.services import base_models
from api.settings import Settings
from tests import engines
from tests import smollm2 as smollm2_model
from tests.services import AttuneUp, Postgres, SeaweedS3, Valkey
from tests.services.s3 import BUCKET

# Shared machines are slow at times, which says nothing about what a property test is after.
hypothesis.settings.register_profile(
    "attune",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("attune")
engines.install()


os.environ["ATTUNE_FRESH_PROOF"] = "0"
"""Seconds for each of hundreds of trainings; test_endings.py switches it on."""


@contextmanager
def _started(kind: type[Any]) -> Iterator[Any]:
    folder = Path(tempfile.mkdtemp(prefix="attune-"))  # not under pytest's own, which only its owner may enter
    server = _on_ports_of_its_own(kind, folder)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _on_ports_of_its_own(kind: type[Any], folder: Path) -> Any:
    """Between the choice of a free port and its use another process may take it: then others are chosen."""
    for _ in range(3):
        server = kind(folder)
        try:
            server.start()
        except RuntimeError as error:
            if "address already in use" not in str(error).lower():
                raise
            shutil.rmtree(folder)
            folder.mkdir()
        else:
            return server
    raise RuntimeError(f"{kind.__name__}: its ports were taken three times")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with _started(Postgres) as server:
        yield server


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    with _started(Valkey) as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[SeaweedS3]:
    with _started(SeaweedS3) as server:
        yield server


def _migrate(url: str) -> None:
    database = Database(url)
    migrate(database)
    database.dispose()


@pytest.fixture(scope="session")
def postgres_template(postgres: Postgres) -> str:
    return postgres.template(_migrate)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def postgres_url(postgres: Postgres, postgres_template: str) -> Iterator[str]:
    """A PostgreSQL database with the current schema and no rows."""
    with postgres.lent(postgres_template) as url:
        yield url


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A new SQLite database with the current schema."""
    path = tmp_path / "attune.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.dispose()


@pytest.fixture
def valkey_url(valkey: Valkey) -> str:
    """An empty broker."""
    valkey.flush()
    return valkey.url


@pytest.fixture
def folder_url(tmp_path: Path) -> str:
    return str(tmp_path / "objects")


@pytest.fixture
def s3_url(s3: SeaweedS3, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty prefix of the bucket. Its credentials are in the environment, for child processes too."""
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid4().hex}"


@pytest.fixture(params=["folder", "s3"])
def storage_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def storage(storage_url: str) -> Storage:
    return Storage(storage_url)


@pytest.fixture(params=["embedded", "production"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """The two ways to run Attune: SQLite and a folder, or PostgreSQL and S3. Valkey in both."""
    database, storage = {"embedded": ("sqlite", "folder"), "production": ("postgres", "s3")}[request.param]
    return Settings(
        data_dir=tmp_path / "data",
        database_url=request.getfixturevalue(f"{database}_url"),
        storage_url=request.getfixturevalue(f"{storage}_url"),
        broker_url=request.getfixturevalue("valkey_url"),
    )


def pytest_collection() -> None:
    gc.disable()  # an import makes what stays, and collections would take a sixth of its time


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.freeze()  # pytest collects ten times at the end, and all modules are still there


@pytest.fixture(scope="module", autouse=True)
def _without_older_garbage() -> None:
    """Leave what imports and earlier modules made out of garbage collections: a trainer asks for four, and each would
    take half a second."""
    gc.collect()
    gc.freeze()


EMBEDDED, PRODUCTION = "embedded", "production"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run modules that set `SETTINGS` once, with those settings: what differs between the two is not their subject.
    Begin with the tests of the live server: one process runs them all, for longer than half of the whole run. End with
    files that take few seconds each, so that all processes end at the same time."""
    twice = {item for item in items if isinstance(item, pytest.Function) and _is_second(item)}
    config.hook.pytest_deselected(items=[*twice])
    items[:] = [item for item in items if item not in twice]
    items.sort(key=lambda item: _turn(item.nodeid.partition("::")[0]))


def _turn(file: str) -> int:
    if _uses_live_server(file):
        return 0
    return 2 if file.startswith("tests/api/") and not file.startswith("tests/api/cli/") else 1


def _is_second(item: pytest.Function) -> bool:
    parameters = getattr(item, "callspec", None)
    only = getattr(item.module, "SETTINGS", None)
    return only is not None and parameters is not None and parameters.params.get("settings", only) != only


@pytest.fixture
def context(settings: Settings) -> Iterator[Context]:
    context = Context.open(settings)
    yield context
    context.database.dispose()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A real pretrained language model, converted to Attune's form."""
    return smollm2_model.folder()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of a few thousand weights: everything works on it, and nothing takes long."""
    from tests.tiny_models import make_model  # noqa: PLC0415 (brings torch, which most tests do without)

    return make_model(tmp_path_factory.mktemp("models") / "tiny", family="llama", seed=0)


@pytest.fixture(scope="session")
def tiny_base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in Attune's form, as `attune models add` makes it; converted once for all tests."""
    from worker.convert import convert  # noqa: PLC0415 (brings torch, too)

    folder = tmp_path_factory.mktemp("models") / "tiny-base"
    convert(str(tiny_model), folder)
    return folder


@contextmanager
def running_attune(tiny_base: Path, **env: str) -> Iterator[AttuneUp]:
    """`attune up` on a new folder, with the base model `tiny` and these variables; without a sampler, which imports
    torch, too, unless they ask for it."""
    folder = Path(tempfile.mkdtemp(prefix="attune-"))
    server = AttuneUp(folder, env={"ATTUNE_SAMPLER": "false", **env})
    try:
        with opened(Settings(data_dir=server.data)) as context:
            migrate(context.database)
            base_models.register(context, "tiny", tiny_base)
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def opened(settings: Settings) -> Iterator[Context]:
    context = Context.open(settings)
    yield context
    context.database.dispose()


@pytest.fixture(scope="session")
def live_server(tiny_base: Path) -> Iterator[AttuneUp]:
    """One `attune up` for all the tests that leave it as they found it. TMPDIR is a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="attune-") as folder:
        env = {"ATTUNE_SAMPLER": "true", "ATTUNE_MAX_FILE_BYTES": str(2 * 10**9), "TMPDIR": folder}
        env |= {"ATTUNE_WEBHOOK_PRIVATE_HOSTS": "127.0.0.1"}
        with running_attune(tiny_base, **env) as server:
            yield server


class Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """Gives whole files to the test processes, and all files that use the live server to the same process: its start
    takes 20 s of processor time."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "live" if _uses_live_server(file) else file


@cache
def _uses_live_server(file: str) -> bool:
    return re.search(r"\blive_server\b", (Path(__file__).parents[1] / file).read_text()) is not None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None
