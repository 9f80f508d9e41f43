"""Artifacts, the stored files of a model: selection of those of one form, their digest, and their archive.

The archive is an uncompressed tar that is generated while it is read, so that nothing is stored twice.
"""

import hashlib
import json
import tarfile
from collections.abc import AsyncIterator, Iterator, Sequence

from api.infra.storage import Storage
from api.spec.artifacts import Artifact

_BLOCK = tarfile.BLOCKSIZE
_END = b"\0" * (2 * _BLOCK)

MERGED = "merged/"
"""Prefix of the names of the artifacts that hold an adapter merged into its base."""

GGUF = "gguf/"
"""Prefix of the name of the artifact that holds a model's GGUF file."""


def trained_artifacts(artifacts: Sequence[Artifact]) -> list[Artifact]:
    """Return the artifacts of the trained adapter or whole model, without merged weights and the GGUF file."""
    return [artifact for artifact in artifacts if not artifact["name"].startswith((MERGED, GGUF))]


def with_relative_names(artifacts: Sequence[Artifact]) -> list[Artifact]:
    """Return the artifacts with the prefix `merged/` or `gguf/` removed from their names."""
    return [{**artifact, "name": artifact["name"].removeprefix(MERGED).removeprefix(GGUF)} for artifact in artifacts]


def digest_of(artifacts: Sequence[Artifact]) -> str:
    """Return the SHA-256 over the artifacts' names and hashes, which identifies a folder of these files."""
    hashes = {artifact["name"]: artifact["sha256"] for artifact in artifacts}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def tar_size(artifacts: Sequence[Artifact]) -> int:
    """Return the size of the archive in bytes, without reading any artifact."""
    return sum(len(_header(artifact)) + _padded(artifact["bytes"]) for artifact in artifacts) + len(_END)


async def stream_tar(storage: Storage, artifacts: Sequence[Artifact], part: range) -> AsyncIterator[bytes]:
    """Yield the bytes of the archive at the positions in `part`, in chunks. Only these bytes are read from the storage,
    and each call gives the same."""
    position = 0
    for piece in _pieces(artifacts):
        size = len(piece) if isinstance(piece, bytes) else piece["bytes"]
        start, stop = (min(max(end - position, 0), size) for end in (part.start, part.stop))
        position += size
        if start == stop:
            continue
        if isinstance(piece, bytes):
            yield piece[start:stop]
        else:
            async for chunk in storage.stream(piece["key"], part=range(start, stop)):
                yield chunk


def _pieces(artifacts: Sequence[Artifact]) -> Iterator[bytes | Artifact]:
    """Yield the parts of the archive in order. An artifact stands for its content."""
    for artifact in artifacts:
        yield _header(artifact)
        yield artifact
        yield b"\0" * (_padded(artifact["bytes"]) - artifact["bytes"])
    yield _END


def _header(artifact: Artifact) -> bytes:
    entry = tarfile.TarInfo(artifact["name"])
    entry.size = artifact["bytes"]
    entry.mode = 0o644
    return entry.tobuf(tarfile.PAX_FORMAT)


def _padded(count: int) -> int:
    return -(-count // _BLOCK) * _BLOCK
