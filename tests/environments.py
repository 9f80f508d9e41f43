"""Environments for what cannot be installed beside us, each made once and kept in the cache."""

import fcntl
import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache"


def python_with(
    *requirements: str,
    folder: Path,
    constraints: Iterable[str] = (),
    our_packages_behind: bool = False,
    alone: bool = False,
) -> Path:
    """The interpreter of an environment that holds these requirements (with their versions) and nothing of ours.

    our_packages_behind: what it lacks is found among the packages that run the tests. torch is some gigabytes.
    alone: what it needs itself is not installed, but found there.
    """
    python = folder / "venv" / "bin" / "python"
    with _once(folder) as to_make:
        if to_make:
            _run(sys.executable, "-m", "venv", "--clear", str(folder / "venv"))
            if our_packages_behind:  # before the installation, which installs only what these lack
                (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
                (site / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
            (folder / "constraints.txt").write_text("\n".join(constraints))
            pip = (str(python), "-m", "pip", "--quiet", "--disable-pip-version-check")
            only = ("--no-deps", "--ignore-installed") if alone else ()  # also what our packages have
            _run(*pip, "install", "-c", str(folder / "constraints.txt"), *only, *requirements)
    return python


NODE_AT_LEAST = 20


def node_lacks() -> str | None:
    """Why nothing of Node's can run here; None where it can."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        return "node and npm are not on the PATH"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    major = int(version.removeprefix("v").partition(".")[0])
    return None if major >= NODE_AT_LEAST else f"Node {NODE_AT_LEAST} or newer is needed, and this is {version}"


def node_folder_with(package: str, version: str, folder: Path) -> Path:
    """A folder whose node_modules hold this version of a package: scripts that run in it find it there."""
    with _once(folder) as to_make:
        if to_make:
            (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": {package: version}}))
            npm = ("npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", "--silent")
            _run(*npm)
    return folder


@contextmanager
def _once(folder: Path) -> Iterator[bool]:
    """Whether this process is to fill the folder, while others that want the same wait."""
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "installed"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        to_make = not done.exists()
        yield to_make
        if to_make:
            done.touch()


def our_constraints() -> list[str]:
    return (ROOT / "constraints.txt").read_text().splitlines()


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
