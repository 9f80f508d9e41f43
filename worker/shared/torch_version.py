"""Whether the libraries here are those that the trainer is written for. Torch-free: workers ask when they start."""

import re
from importlib.metadata import PackageNotFoundError, version

TORCH = (2, 12)
"""The first whose varlen_attn takes windows and shared key heads by these names (worker.engine.model.attention)."""


class Unsuited(SystemExit):
    """The message says what to install."""


def require_torch(found: str | None = None) -> None:
    """Raise Unsuited if torch is missing or too old. `found`: its version, if not the installed one's."""
    try:
        found = found or version("torch")
    except PackageNotFoundError:
        raise Unsuited("This worker needs torch: install attune[worker].") from None
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < TORCH:
        wanted = ".".join(map(str, TORCH))
        raise Unsuited(f"torch {found} is too old: packed attention needs {wanted} or newer. Install attune[worker].")
