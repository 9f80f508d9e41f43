"""Files that only their owner can read, such as those with keys."""

import os
from pathlib import Path


def write_private_file(path: Path, content: bytes) -> None:
    """Write the file so that a reader finds its old or its new content, even after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)  # an older one may be readable by others
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
