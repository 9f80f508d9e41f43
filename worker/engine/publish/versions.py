"""Versions of the code that trained a model: Attune, and the libraries that affect the results."""

import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from api.spec.manifest import Code

COMMIT = "SOURCE_COMMIT"
"""Environment variable with the commit, set in container images, which have no git."""
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "safetensors", "tokenizers", "numpy")
SOURCE = Path(__file__).parents[3]
GIT_TIMEOUT_S = 10.0


@cache
def our_code() -> Code:
    return Code(version=_version("attune"), commit=os.environ.get(COMMIT) or _checkout_commit() or _installed_commit())


@cache
def libraries() -> dict[str, str]:
    versions = {name: _version(name) for name in LIBRARIES}
    return {"python": platform.python_version()} | {
        name: number for name, number in versions.items() if number is not None
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _checkout_commit() -> str | None:
    if not (SOURCE / ".git").exists():
        return None
    command = ["git", "-C", str(SOURCE), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=GIT_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):  # git is not installed, or hangs
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _installed_commit() -> str | None:
    """Return the commit that pip recorded if it installed Attune from a repository (PEP 610)."""
    try:
        record = distribution("attune").read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    commit = json.loads(record or "{}").get("vcs_info", {}).get("commit_id")
    return str(commit) if commit else None
