import json
import re
import sysconfig
from collections.abc import Callable
from pathlib import Path

import psutil
from typer.testing import CliRunner

from api.cli.main import app
from tests.services.process import START_TIMEOUT_S, Server

ATTUNE = str(Path(sysconfig.get_path("scripts")) / "attune")


class AttunePart(Server):
    """One `attune …` process: the parts of a production set-up, each on its own."""

    stop_timeout_s = 90.0  # a trainer saves before it ends

    def __init__(self, folder: Path, *arguments: str, env: dict[str, str]) -> None:
        self.name = arguments[0]
        super().__init__(folder)
        self.arguments, self.env = arguments, env

    def start(self, ready: Callable[[], bool] = lambda: True) -> None:
        self.spawn([ATTUNE, *self.arguments], env=self.env, ready=ready)

    def finish(self) -> None:
        """Wait for a command that ends by itself."""
        assert self.process is not None
        code = self.process.wait(timeout=START_TIMEOUT_S)
        self.process = None
        assert code == 0, self.log.read_text()


class AttuneUp(Server):
    """A whole Attune, as `attune up` starts it: API, worker, broker and trainer are its children."""

    name = "attune"
    stop_timeout_s = 90.0  # a trainer saves before it ends

    def __init__(self, folder: Path, env: dict[str, str] | None = None) -> None:
        super().__init__(folder)
        self.data = folder / "data"
        self.env = env or {}

    def start(self) -> None:
        self.log.unlink(missing_ok=True)  # the address of an earlier start is not that of this one
        command = [ATTUNE, "up", "--data-dir", str(self.data), "--port", "0"]
        self.spawn(command, env=self.env, ready=lambda: self._address() is not None)

    def add_model(self, name: str, source: Path) -> None:
        self.run("models", "add", name, str(source), "--data-dir", str(self.data))

    def run(self, *arguments: str) -> str:
        """An `attune …` command to its end, in this process, which has imported it. Returns what it prints."""
        done = CliRunner().invoke(app, arguments, env=self.env)
        assert done.exit_code == 0, f"attune {arguments[0]}: {done.output}"
        return done.stdout

    def _address(self) -> str | None:
        found = re.search(r"^ready (http://\S+)", self.log.read_text(errors="replace"), re.MULTILINE)
        return found[1] if found else None

    @property
    def base_url(self) -> str:
        address = self._address()
        assert address is not None, "not started"
        return f"{address}/v1"

    @property
    def api_key(self) -> str:
        return str(json.loads((self.data / "credentials.json").read_text())["api_key"])

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    def pid_of(self, *words: str) -> int:
        """The one process below `attune up` whose command line holds all these words."""
        found = {child.pid: child.cmdline() for child in self.children() if set(words) <= set(words_of(child))}
        assert len(found) == 1, f"{words}: {found or [child.cmdline() for child in self.children()]}"
        return next(iter(found))

    def stop(self) -> None:
        """As ctrl-C does. What outlives it is ended too, but a test of stopping should look for that itself."""
        survivors = [] if self.process is None else self.children()
        super().stop()
        for survivor in survivors:
            if survivor.is_running():
                survivor.kill()


def words_of(process: psutil.Process) -> list[str]:
    """The words of its command line, which is one text in a forked process; of paths, their last parts. Empty if it has
    just ended."""
    try:
        return [Path(word).name for argument in process.cmdline() for word in argument.split()]
    except psutil.NoSuchProcess:  # or its zombie
        return []
