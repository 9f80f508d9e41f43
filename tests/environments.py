"""Virtual environments for what cannot be installed beside us, each made once and kept in the cache."""

import fcntl
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache"


def python_with(
    requirement: str,
    folder: Path,
    *,
    constraints: Iterable[str] = (),
    our_packages_behind: bool = False,
    alone: bool = False,
) -> Path:
    """The interpreter of an environment that holds this requirement (with its version) and nothing of ours.

    our_packages_behind: what it lacks is found among the packages that run the tests. torch is some gigabytes.
    alone: what it needs itself is not installed, but found there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    python, done = folder / "venv" / "bin" / "python", folder / "installed"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _run(sys.executable, "-m", "venv", "--clear", str(folder / "venv"))
            (folder / "constraints.txt").write_text("\n".join(constraints))
            pip = (str(python), "-m", "pip", "--quiet", "--disable-pip-version-check")
            _run(*pip, "install", "-c", str(folder / "constraints.txt"), *["--no-deps"] * alone, requirement)
            if our_packages_behind:
                (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
                (site / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
            done.touch()
    return python


def our_constraints() -> list[str]:
    return (ROOT / "constraints.txt").read_text().splitlines()


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
