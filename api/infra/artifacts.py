"""A model's artifacts as one plain tar, put together while it is read: nothing is stored twice."""

import hashlib
import json
import tarfile
from collections.abc import AsyncIterator, Sequence
from typing import Any

from api.infra.storage import Storage

_BLOCK = tarfile.BLOCKSIZE
_END = b"\0" * (2 * _BLOCK)

MERGED = "merged/"
"""Where, among an adapter's artifacts, the whole model is that it makes of its base."""

GGUF = "gguf/"
"""Where its GGUF file is, if it has one."""


def trained_artifacts(artifacts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was trained, without the other forms of it."""
    return [artifact for artifact in artifacts if not artifact["name"].startswith((MERGED, GGUF))]


def from_their_folder(artifacts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same, named as `merged/` or `gguf/` names them where they lie there."""
    return [{**artifact, "name": artifact["name"].removeprefix(MERGED).removeprefix(GGUF)} for artifact in artifacts]


def digest_of(artifacts: Sequence[dict[str, Any]]) -> str:
    """Of their names and contents: a folder made of the same files is the same folder."""
    hashes = {artifact["name"]: artifact["sha256"] for artifact in artifacts}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def tar_size(artifacts: Sequence[dict[str, Any]]) -> int:
    """Bytes of the archive, known before it is read."""
    return sum(len(_header(artifact)) + _padded(artifact["bytes"]) for artifact in artifacts) + len(_END)


async def stream_tar(storage: Storage, artifacts: Sequence[dict[str, Any]]) -> AsyncIterator[bytes]:
    """The archive in chunks; the same bytes each time."""
    for artifact in artifacts:
        yield _header(artifact)
        async for chunk in storage.stream(artifact["key"]):
            yield chunk
        yield b"\0" * (_padded(artifact["bytes"]) - artifact["bytes"])
    yield _END


def _header(artifact: dict[str, Any]) -> bytes:
    entry = tarfile.TarInfo(artifact["name"])
    entry.size = artifact["bytes"]
    entry.mode = 0o644
    return entry.tobuf(tarfile.PAX_FORMAT)


def _padded(count: int) -> int:
    return -(-count // _BLOCK) * _BLOCK
