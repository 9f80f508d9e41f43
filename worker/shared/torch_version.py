"""A check of torch's installed version, without importing torch."""

import re
from importlib.metadata import PackageNotFoundError, version

MIN_TORCH = (2, 12)
"""The first version whose `varlen_attn` has the arguments for windows and shared key heads that
worker.engine.model.attention passes."""
INSTALL = "pip install '.[worker]' in the folder of Attune's source"


class UnsupportedTorch(SystemExit):
    """torch is missing or too old. The message names what to install."""


def require_torch(installed: str | None = None) -> None:
    """Raise UnsupportedTorch if torch is missing or too old. `installed`: the version to check; default: look it up."""
    try:
        installed = installed or version("torch")
    except PackageNotFoundError:
        raise UnsupportedTorch(f"This worker needs torch: {INSTALL}.") from None
    numbers = re.match(r"(\d+)\.(\d+)", installed)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < MIN_TORCH:
        required = ".".join(map(str, MIN_TORCH))
        raise UnsupportedTorch(
            f"torch {installed} is too old: packed attention needs {required} or newer. Run {INSTALL}."
        )
