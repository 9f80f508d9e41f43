"""Object storage for files, arrays, states, checkpoints and models: a folder, S3, GCS or Azure.

Keys consist of internal ids only and never contain users' text.
"""

import copy
import errno
import hashlib
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self
from uuid import uuid4

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from api.spec.file_hash import file_sha256

CHUNK_BYTES = 4 * 1024 * 1024
STREAMED_BYTES = 64 * 1024
"""Size of the chunks that a client gets. A client that reads slowly holds about five times as much memory, and there
may be as many as connections: 1.4 GB for 4,096 of them. The part of this in write buffers is limited to 256 MiB in
all (HttpProtocol.max_unread_bytes)."""
JOINED_BYTES = 1024 * 1024
"""Size of the chunks of an object that is joined with others. Larger chunks fragment the heap: joining ten parts took
57 MiB of resident memory with chunks of 4 MiB, and 34 MiB with 1 MiB."""
SMALLEST_PART_BYTES = 5 * 1024 * 1024  # S3's minimum; S3 allows 10,000 parts in an object: 48 GiB
PART_BYTES = 8 * 1024 * 1024  # 10,000 of them: 80 GB
_UNFINISHED = re.compile(r"#\d+\Z")
"""End of the names of files in a folder that are being written, or whose writers were killed. The library does not list
them."""


class StorageUnavailable(Exception):
    """The storage is unreachable, or refused the request."""


class StorageFull(StorageUnavailable):
    """The storage has no space for the object."""


class ObjectMissing(Exception):
    """There is no object with this key."""


class ObjectCorrupt(Exception):
    """The object's SHA-256 differs from the recorded one."""


class ReadingStopped(Exception):
    """The reader shuts down, so the rest of the object was not read."""


@dataclass(frozen=True)
class StoredObject:
    """Size and hash of a written object, which the caller records in a row."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ListedObject:
    """An object in the storage, as `list_objects` yields it."""

    key: str
    bytes: int
    changed_at: float
    """Time of the last change, in Unix seconds by the storage's clock."""


class Storage:
    def __init__(self, url: str) -> None:
        self._objects: ObjectStore = _open(url)
        self._root = _folder(url)
        self._inode = None if self._root is None else self._root.stat().st_ino
        self._stopping: threading.Event | None = None

    def reading_until(self, stopping: threading.Event) -> Self:
        """Return the same storage for a reader that shuts down when `stopping` is set: `read` and `read_file` then
        raise ReadingStopped at their next chunk. A large object may take minutes."""
        reader = copy.copy(self)
        reader._stopping = stopping
        return reader

    def require(self) -> None:
        """Raise StorageUnavailable if the storage is a folder that was removed or replaced since it was opened.

        Without this check, stored objects would seem to be missing, and new ones would be written into a folder that
        is lost.
        """
        if self._root is None:
            return
        try:
            same = self._root.stat().st_ino == self._inode
        except OSError:
            same = False
        if not same:
            raise StorageUnavailable("the folder of the object storage is gone")

    @property
    def _store(self) -> ObjectStore:
        self.require()
        return self._objects

    async def write(self, key: str, chunks: AsyncIterator[bytes], *, low_memory: bool = False) -> StoredObject:
        """Write the chunks into an object, which becomes visible once it is complete. If `chunks` raises an error, no
        object is written.

        `low_memory` is for many concurrent small objects: each takes about 10 MiB of memory instead of 20.
        """
        digest, count = hashlib.sha256(), 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal count
            async for chunk in chunks:
                digest.update(chunk)
                count += len(chunk)
                yield chunk

        try:
            await obstore.put_async(
                self._store,
                key,
                counted(),
                use_multipart=True,
                chunk_size=SMALLEST_PART_BYTES,
                max_concurrency=1 if low_memory else 2,
            )
        except (BaseError, FileNotFoundError) as error:
            raise _not_written(key, error) from error
        return StoredObject(count, digest.hexdigest())

    def write_file(self, key: str, path: Path) -> StoredObject:
        """Copy a local file into an object."""
        digest = file_sha256(path)
        try:
            obstore.put(self._store, key, path, chunk_size=PART_BYTES, max_concurrency=2)
        except (BaseError, FileNotFoundError) as error:
            raise _not_written(key, error) from error
        return StoredObject(path.stat().st_size, digest)

    def write_bytes(self, key: str, data: bytes) -> StoredObject:
        """Store a small object (a manifest, a result file)."""
        try:
            obstore.put(self._store, key, data)
        except (BaseError, FileNotFoundError) as error:
            raise _not_written(key, error) from error
        return StoredObject(len(data), hashlib.sha256(data).hexdigest())

    def read_file(self, key: str, path: Path, *, sha256: str | None = None) -> StoredObject:
        """Copy an object into a local file. Raises ObjectCorrupt if the object's hash differs from `sha256`."""
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for chunk in self.read(key):
                digest.update(chunk)
                file.write(chunk)
        if sha256 is not None and digest.hexdigest() != sha256:
            path.unlink()
            raise ObjectCorrupt(f"{key} is damaged: its sha256 differs")
        return StoredObject(path.stat().st_size, digest.hexdigest())

    def read(self, key: str) -> Iterator[bytes]:
        """Yield the object in chunks of about 4 MiB. Raises ObjectMissing before the first chunk."""
        try:
            chunks = iter(obstore.get(self._store, key).stream(min_chunk_size=CHUNK_BYTES))
            for chunk in chunks:
                if self._stopping is not None and self._stopping.is_set():
                    raise ReadingStopped(key)
                yield bytes(chunk)
        except (BaseError, FileNotFoundError) as error:
            raise _not_read(key, error) from error

    async def stream(
        self, key: str, *, part: range | None = None, chunk_bytes: int = STREAMED_BYTES
    ) -> AsyncIterator[bytes]:
        """Yield the object, or its bytes in the range `part`, in chunks of about `chunk_bytes`, without blocking the
        event loop."""
        try:
            response = await obstore.get_async(
                self._store, key, options={"range": (part.start, part.stop)} if part else {}
            )
            async for chunk in response.stream(min_chunk_size=chunk_bytes):
                yield bytes(chunk)
        except (BaseError, FileNotFoundError) as error:
            raise _not_read(key, error) from error

    async def read_range(self, key: str, *, start: int, length: int) -> bytes:
        """Return `length` bytes of the object from byte `start`. Raises ObjectMissing if there is no object."""
        try:
            return bytes(await obstore.get_range_async(self._store, key, start=start, length=length))
        except (BaseError, FileNotFoundError) as error:
            raise _not_read(key, error) from error

    def exists(self, key: str) -> bool:
        return self.changed_at(key) is not None

    def changed_at(self, key: str) -> float | None:
        """Return the time of the object's last change (Unix seconds, by the storage's clock); None if there is no
        object."""
        try:
            if (unfinished := self._unfinished(key)) is not None:
                return unfinished.stat().st_mtime
            return float(obstore.head(self._store, key)["last_modified"].timestamp())
        except FileNotFoundError:
            return None
        except BaseError as error:
            raise StorageUnavailable(f"looking for {key}") from error

    def probe(self) -> None:
        """Write and delete a small object. Raises StorageUnavailable if that fails."""
        key = f"probes/{uuid4().hex}"
        self.write_bytes(key, b"probe")
        self.delete([key])

    def list_objects(self, folder: str) -> Iterator[list[ListedObject]]:
        """Yield entries for all objects whose key begins with `folder/`, in batches. The last batch has the files that
        are not written to their end: a killed process leaves them in a folder."""
        try:
            for batch in obstore.list(self._store, folder):
                yield [
                    ListedObject(entry["path"], entry["size"], entry["last_modified"].timestamp()) for entry in batch
                ]
        except BaseError as error:
            raise StorageUnavailable(f"listing {folder}") from error
        unfinished = []
        for path in self._root.glob(f"{folder}/**/*#*") if self._root is not None else ():
            with suppress(FileNotFoundError):  # it is complete by now, and has another name
                if self._unfinished(key := path.relative_to(self._root or "").as_posix()):
                    unfinished.append(ListedObject(key, path.stat().st_size, path.stat().st_mtime))
        yield unfinished

    def _unfinished(self, key: str) -> Path | None:
        """Return the file of an object that is not written to its end; None if the key is that of another object."""
        return self._root / key if self._root is not None and _UNFINISHED.search(key) else None

    def delete(self, keys: list[str]) -> None:
        """Delete objects. Keys without an object are ignored."""
        if self._root is None and len(keys) > 1:
            try:
                obstore.delete(self._store, keys)  # in few requests
                return
            except FileNotFoundError:  # on some storages, one missing object leaves others
                pass
            except BaseError as error:
                raise StorageUnavailable(f"deleting {keys[0]} and others") from error
        for key in keys:
            self._delete(key)

    def _delete(self, key: str) -> None:
        if (unfinished := self._unfinished(key)) is not None:
            unfinished.unlink(missing_ok=True)
            return
        try:
            obstore.delete(self._store, key)
        except (BaseError, FileNotFoundError) as error:
            if not _is_missing(error):
                raise StorageUnavailable(f"deleting {key}") from error

    def delete_prefix(self, prefix: str) -> None:
        """Delete every object whose key begins with `prefix/`."""
        try:
            for batch in obstore.list(self._store, prefix):
                self.delete([entry["path"] for entry in batch])
        except BaseError as error:
            raise StorageUnavailable(f"deleting {prefix}") from error


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers (`errno`) of the errors that mean that a disk is full."""

_NO_ROOM = tuple(f"(os error {number})" for number in NO_ROOM)
"""Parts of the library's messages about a full disk. The library has no exception class for this error."""


_NO_BUCKET = ("<Code>NoSuchBucket</Code>", "<Code>ContainerNotFound</Code>")
"""Parts of the responses of S3, Google and Azure for a bucket that does not exist. The library raises FileNotFoundError
both for a missing object and for a missing bucket."""


def _is_missing(error: BaseError | FileNotFoundError) -> bool:
    """Return whether the storage has no such object. Without its bucket, every object would seem to be missing."""
    return isinstance(error, FileNotFoundError) and not any(code in str(error) for code in _NO_BUCKET)


def _not_read(key: str, error: BaseError | FileNotFoundError) -> ObjectMissing | StorageUnavailable:
    """Return the exception for a failed read."""
    return ObjectMissing(key) if _is_missing(error) else StorageUnavailable(f"reading {key}")


def _not_written(key: str, error: BaseError | FileNotFoundError) -> StorageUnavailable:
    """Return the exception for a failed write. A FileNotFoundError means that there is no bucket."""
    full = any(number in str(error) for number in _NO_ROOM)
    return StorageFull(f"no room for {key}") if full else StorageUnavailable(f"writing {key}")


def _folder(url: str) -> Path | None:
    """Return the folder that holds the objects; None if they are in a cloud's storage."""
    if "://" not in url:
        return Path(url).resolve()
    return Path(url.removeprefix("file://")) if url.startswith("file://") else None


def _open(url: str) -> ObjectStore:
    folder = _folder(url)
    if folder is not None:
        return LocalStore(folder, mkdir=True, automatic_cleanup=True)
    store: ObjectStore = from_url(
        url,
        client_options={
            "connect_timeout": timedelta(seconds=5),
            "read_timeout": timedelta(seconds=60),
            "timeout": timedelta(hours=1),  # for one request, which may transfer a large object
            # Endpoints without TLS are used only if the operator configures one, such as a server on the same machine.
            "allow_http": True,
        },
        retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=60)},
    )
    return store
