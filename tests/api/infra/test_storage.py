import hashlib
import io
import tarfile
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import obstore
import pytest
from obstore.store import ObjectStore

from api.infra.artifacts import stream_tar, tar_size
from api.infra.storage import STREAMED_BYTES, ObjectCorrupt, ObjectMissing, Storage, StorageUnavailable
from api.spec.artifacts import Artifact


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Broken(Exception):
    pass


async def chunks(count: int, *, breaks: bool = False) -> AsyncIterator[bytes]:
    for number in range(count):
        yield bytes([number % 256]) * 1_000_000
    if breaks:
        raise Broken


@pytest.mark.anyio
async def test_what_is_streamed_in_comes_out(storage: Storage) -> None:
    stored = await storage.write("a/b", chunks(20))
    content = b"".join(storage.read("a/b"))
    assert (stored.bytes, stored.sha256) == (20_000_000, hashlib.sha256(content).hexdigest())


@pytest.mark.anyio
async def test_a_stream_that_breaks_leaves_nothing(storage: Storage) -> None:
    with pytest.raises(Broken):
        await storage.write("a/b", chunks(20, breaks=True))
    assert not storage.exists("a/b")


def test_a_missing_object_is_an_error_of_its_own(storage: Storage) -> None:
    with pytest.raises(ObjectMissing):
        next(storage.read("nothing"))
    storage.delete(["nothing"])


def test_a_file_whose_hash_differs_is_not_kept(storage: Storage, tmp_path: Path) -> None:
    storage.write_bytes("a", b"altered")
    with pytest.raises(ObjectCorrupt):
        storage.read_file("a", tmp_path / "a", sha256=hashlib.sha256(b"original").hexdigest())
    assert not (tmp_path / "a").exists()


def test_deleting_a_prefix_spares_its_neighbours(storage: Storage) -> None:
    for key in ("states/j1/a", "states/j1/b/c", "states/j10/a"):
        storage.write_bytes(key, b"x")
    storage.delete_prefix("states/j1")
    assert [storage.exists(key) for key in ("states/j1/a", "states/j1/b/c", "states/j10/a")] == [False, False, True]


def test_many_objects_are_deleted_even_if_one_is_missing(storage: Storage) -> None:
    for key in ("a/1", "a/2"):
        storage.write_bytes(key, b"x")
    storage.delete(["a/1", "a/missing", "a/2"])
    assert [storage.exists(key) for key in ("a/1", "a/2")] == [False, False]


def test_many_objects_of_a_bucket_are_deleted_together(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, deleted, delete = Storage(s3_url), list[list[str]](), obstore.delete
    keys = [f"uploads/u/{number}" for number in range(3)]
    for key in keys:
        storage.write_bytes(key, b"x")

    def counted(store: ObjectStore, paths: list[str]) -> None:
        deleted.append(paths)
        delete(store, paths)

    monkeypatch.setattr(obstore, "delete", counted)
    storage.delete(keys)
    assert (deleted, any(map(storage.exists, keys))) == ([keys], False)


def in_storage(storage: Storage, contents: dict[str, bytes]) -> list[Artifact]:
    artifacts: list[Artifact] = []
    for name, content in contents.items():
        stored = storage.write_bytes(f"models/{name}", content)
        artifacts.append({"name": name, "bytes": stored.bytes, "sha256": stored.sha256, "key": f"models/{name}"})
    return artifacts


async def part_of(storage: Storage, artifacts: list[Artifact], part: range) -> bytes:
    return b"".join([chunk async for chunk in stream_tar(storage, artifacts, part)])


@pytest.mark.anyio
async def test_the_archive_is_a_plain_tar_of_the_size_that_was_announced(storage: Storage) -> None:
    contents = {"config.json": b"{}", "deep/" + "long" * 40 + ".safetensors": b"w" * 1_234_567, "empty": b""}
    artifacts = in_storage(storage, contents)
    archive = await part_of(storage, artifacts, range(tar_size(artifacts)))
    assert len(archive) == tar_size(artifacts)
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        assert {entry.name: tar.extractfile(entry).read() for entry in tar} == contents  # type: ignore[union-attr]
    for part in (range(2), range(511, 515), range(600, 1_000_000), range(1_000_000, len(archive))):
        assert await part_of(storage, artifacts, part) == archive[part.start : part.stop]


@pytest.mark.anyio
async def test_only_what_is_asked_for_of_an_archive_is_read(storage: Storage) -> None:
    artifacts = in_storage(storage, {"first": b"1" * 1000, "second": b"2" * 1000})
    storage.delete(["models/first"])
    assert await part_of(storage, artifacts, range(512 + 1024 + 512 + 10, 512 + 1024 + 512 + 20)) == b"2" * 10


@pytest.mark.anyio
async def test_a_client_that_stops_reading_holds_little_memory(folder_url: str) -> None:
    storage = Storage(folder_url)
    storage.write_bytes("large", b"l" * 2_000_000)
    assert max([len(chunk) async for chunk in storage.stream("large")]) <= 2 * STREAMED_BYTES


def test_objects_are_listed_by_their_folder_with_size_and_time(storage: Storage) -> None:
    for key in ("states/a/1", "states/b", "statesmen"):
        storage.write_bytes(key, b"123")
    listed = [each for batch in storage.list_objects("states") for each in batch]
    assert {(each.key, each.bytes) for each in listed} == {("states/a/1", 3), ("states/b", 3)}
    assert all(abs(each.changed_at - time.time()) < 600 for each in listed)
    assert [each for batch in storage.list_objects("nothing") for each in batch] == []


@pytest.mark.parametrize("url", ["folder", "file://folder"])
def test_objects_without_their_folder_are_not_missing_but_away(tmp_path: Path, url: str) -> None:
    folder = tmp_path / "objects"
    storage = Storage(url.replace("folder", str(folder)))
    storage.write_bytes("a/b", b"bytes")
    folder.rename(tmp_path / "away")
    for act in (
        lambda: list(storage.read("a/b")),
        lambda: storage.write_bytes("a/b", b"x"),
        lambda: storage.exists("a/b"),
        lambda: list(storage.list_objects("a")),
        lambda: storage.delete(["a/b"]),
        lambda: storage.delete_prefix("a"),
        lambda: storage.write_file("a/b", Path(__file__)),
    ):
        with pytest.raises(StorageUnavailable):
            act()
    assert not folder.exists()


class WithoutBucket(BaseHTTPRequestHandler):
    """Answers as S3 does for a bucket that does not exist. The tests' S3 server makes such a bucket at a write."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        answer = b"<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>"
        self.send_response(404)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 (names that http.server looks for)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def bucketless(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    with ThreadingHTTPServer(("127.0.0.1", 0), WithoutBucket) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield Storage(s3_url)
        server.shutdown()


@pytest.mark.anyio
async def test_objects_without_their_bucket_are_not_missing_but_away(bucketless: Storage) -> None:
    with pytest.raises(StorageUnavailable):
        await bucketless.read_range("a/b", start=0, length=1)
    with pytest.raises(StorageUnavailable):
        await bucketless.write("a/b", chunks(1))
    for act in (
        lambda: list(bucketless.read("a/b")),
        lambda: bucketless.write_bytes("a/b", b"x"),
        lambda: bucketless.write_file("a/b", Path(__file__)),
        bucketless.probe,
        lambda: list(bucketless.list_objects("a")),
        lambda: bucketless.delete(["a/b"]),
        lambda: bucketless.delete(["a/b", "a/c"]),
        lambda: bucketless.delete_prefix("a"),
    ):
        with pytest.raises(StorageUnavailable):
            act()
