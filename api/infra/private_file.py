"""Files that only their owner can read, such as those with keys."""

import os
import tempfile
from pathlib import Path


def write_private_file(path: Path, content: bytes) -> None:
    """Write the file so that a reader finds its old or its new content, even after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Concurrent writers have a file each. Only its owner can read it.
    number, partial = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".partial")
    try:
        with open(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(number)
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink()
        raise
