"""One virtual environment for each version of OpenAI's client, made once and kept in the cache."""

import fcntl
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
CACHE = ROOT / ".cache" / "clients"


def python_with(version: str) -> Path:
    """The interpreter of an environment that holds this version of `openai` and nothing of ours."""
    folder = CACHE / version
    folder.mkdir(parents=True, exist_ok=True)
    python, done = folder / "venv" / "bin" / "python", folder / "installed"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _run(sys.executable, "-m", "venv", "--clear", str(folder / "venv"))
            pip = (str(python), "-m", "pip", "--quiet", "--disable-pip-version-check")
            _run(*pip, "install", "-c", str(_constraints(folder)), f"openai=={version}")
            done.touch()
    return python


def _constraints(folder: Path) -> Path:
    """What the client needs (its HTTP library, pydantic) in the versions that all our tests use."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    path = folder / "constraints.txt"
    path.write_text("\n".join(line for line in lines if not line.startswith("openai==")))
    return path


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
