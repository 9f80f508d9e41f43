"""A large upload passes through the API, not into it."""

import contextlib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from tests.end_to_end.jobs import wait_until
from tests.end_to_end.memory import watched
from tests.services import AttuneUp

GIGABYTE = 10**9
BOUNDARY = "attuneboundary"
HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="big.jsonl"\r\n\r\n'
).encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


def form(size: int) -> Iterator[bytes]:
    chunk = b'{"text": "' + b"x" * 65_520 + b'"}\n'
    yield HEAD
    sent = 0
    while sent < size:
        piece = chunk[: size - sent]
        yield piece
        sent += len(piece)
    yield TAIL


def api_process(server: AttuneUp) -> psutil.Process:
    return psutil.Process(server.pid_of("api.cli", "api"))


def test_a_gigabyte_leaves_the_apis_memory_and_the_temporary_folder_as_they_were(live_server: AttuneUp) -> None:
    api, headers = api_process(live_server), {"Authorization": f"Bearer {live_server.api_key}"}
    httpx.get(f"{live_server.base_url}/files", headers=headers)
    temporary = set(Path(live_server.env["TMPDIR"]).iterdir())
    with watched(api) as resident:
        answer = httpx.post(
            f"{live_server.base_url}/files",
            content=form(GIGABYTE),
            headers=headers | {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
            timeout=250,
        )
    assert answer.json()["bytes"] == GIGABYTE, answer.text
    print(f"{resident} while a gigabyte passed")
    assert resident.grown < 100 * 2**20
    assert set(Path(live_server.env["TMPDIR"]).iterdir()) == temporary
    httpx.delete(f"{live_server.base_url}/files/{answer.json()['id']}", headers=headers)


def test_without_a_valid_key_the_body_is_not_read(live_server: AttuneUp) -> None:
    address = httpx.URL(live_server.base_url)
    read_before = api_process(live_server).io_counters().read_chars
    with socket.create_connection((address.host, address.port)) as stranger:
        stranger.sendall(
            b"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-attune-wrong\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000000\r\n\r\n"
        )
        stranger.settimeout(30)
        answer = stranger.recv(65536)  # before a single byte of the body was sent
        assert answer.startswith(b"HTTP/1.1 401"), answer
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 50_000_000:
                sent += stranger.send(b"x" * 65536)
        assert sent < 50_000_000, "the server hung up"
    assert api_process(live_server).io_counters().read_chars - read_before < 5_000_000


def test_a_client_that_goes_away_leaves_nothing_behind(live_server: AttuneUp) -> None:
    objects = Path(live_server.data) / "objects" / "files"
    before = {path for path in objects.rglob("*") if path.is_file()}
    address = httpx.URL(live_server.base_url)
    with socket.create_connection((address.host, address.port)) as client:
        client.sendall(
            f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {live_server.api_key}\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: 1000000000\r\n\r\n".encode()
        )
        client.sendall(HEAD + b"x" * 20_000_000)
    wait_until(lambda: {path for path in objects.rglob("*") if path.is_file()} == before, 20)


def test_the_systems_temporary_folder_is_the_one_that_was_watched(live_server: AttuneUp) -> None:
    assert live_server.env["TMPDIR"] != tempfile.gettempdir()
    # Its own processes have the same variables, but a forked process has its title in their place.
    assert psutil.Process(live_server.pid).environ()["TMPDIR"] == live_server.env["TMPDIR"]
