"""Downloads that are verified, and that continue after an interruption.

A file is downloaded as `FILE.part` and gets its final name only after its SHA-256 matches the listed one. A repeated
download keeps a complete file and continues an interrupted one from `FILE.part`.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from api.cli.client import Client, Document
from api.cli.errors import CommandError, ExitCode

CHUNK_BYTES = 1 << 20


def download_file(client: Client, url: str, listed: Document, path: Path, advance: Callable[[int], None]) -> None:
    """Download the content at `url` into `path`.

    `listed`: what the server lists, with `bytes` and `sha256`; without a SHA-256 the whole content is downloaded and
    not verified. `advance`: called with the number of further bytes. Raise CommandError if the SHA-256 differs.
    """
    sha256, part = listed.get("sha256"), path.with_name(f"{path.name}.part")
    if sha256 is None:
        part.unlink(missing_ok=True)
    elif path.is_file() and _sha256_of(path) == sha256:
        return advance(listed["bytes"])
    digest = hashlib.sha256()
    with part.open("a+b") as file:
        file.seek(0)
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
        resumed_at = file.tell()
        advance(resumed_at)
        if resumed_at < listed["bytes"]:
            with client.stream_bytes(url, start=resumed_at) as response:
                if response.status_code != 206:  # the server ignores the range and sends the whole file
                    file.truncate(0)
                    advance(-resumed_at)
                    digest = hashlib.sha256()
                for chunk in response.iter_bytes():
                    file.write(chunk)
                    digest.update(chunk)
                    advance(len(chunk))
    if sha256 is not None and digest.hexdigest() != sha256:
        advance(-part.stat().st_size)
        part.unlink()
        if resumed_at:  # `FILE.part` was a part of another file
            return download_file(client, url, listed, path, advance)
        raise CommandError(
            ExitCode.CORRUPT, f"{path.name} was not kept: its SHA-256 differs from the listed one. Download it again."
        )
    part.replace(path)
    return None


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:  # a client's command imports nothing of the server, so not api.spec.file_hash
        return hashlib.file_digest(file, "sha256").hexdigest()
