"""Which code made this: ours, and the libraries that decide its numbers."""

import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from api.spec.manifest import Code

COMMIT = "SOURCE_COMMIT"
"""Names the commit in an image, which has no git."""
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "safetensors", "tokenizers", "numpy")
SOURCE = Path(__file__).parents[2]
GIT_S = 10.0


@cache
def our_code() -> Code:
    return Code(version=_version("attune"), commit=os.environ.get(COMMIT) or _of_checkout() or _of_install())


@cache
def libraries() -> dict[str, str]:
    found = {name: _version(name) for name in LIBRARIES}
    return {"python": platform.python_version()} | {name: each for name, each in found.items() if each is not None}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _of_checkout() -> str | None:
    if not (SOURCE / ".git").exists():
        return None
    command = ["git", "-C", str(SOURCE), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=GIT_S)
    except (OSError, subprocess.TimeoutExpired):  # no git here
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _of_install() -> str | None:
    """What pip notes of a package that it installed from a repository."""
    try:
        noted = distribution("attune").read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    commit = json.loads(noted or "{}").get("vcs_info", {}).get("commit_id")
    return str(commit) if commit else None
