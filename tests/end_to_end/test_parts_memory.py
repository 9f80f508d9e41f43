"""Two gigabytes in parts pass through the API, not into it; and what was acknowledged outlives what goes wrong."""

import hashlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import httpx
import psutil
import pytest

from tests.end_to_end.memory import watched
from tests.services import AttuneUp

PART_BYTES = 64 * 2**20  # what OpenAI's clients send
PARTS = 30
TOTAL = PARTS * PART_BYTES
BOUNDARY = "attuneboundary"
HEAD = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="data"; filename="upload"\r\n\r\n'.encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


def pieces(number: int) -> Iterator[bytes]:
    """A part's content; no two parts are alike."""
    piece = f"{number:06}".encode() * 16384 + b"\n" * (2**17 - 6 * 16384)
    for _ in range(PART_BYTES // len(piece)):
        yield piece


class Uploader:
    def __init__(self, server: AttuneUp) -> None:
        self.base_url = f"{server.base_url}/uploads"
        self.http = httpx.Client(headers={"Authorization": f"Bearer {server.api_key}"}, timeout=120, trust_env=False)

    def begin(self) -> str:
        body = {"bytes": TOTAL, "filename": "big.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
        return str(self.http.post(self.base_url, json=body).json()["id"])

    def send(self, upload_id: str, number: int) -> str:
        def form() -> Iterator[bytes]:
            yield HEAD
            yield from pieces(number)
            yield TAIL

        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        answer = self.http.post(f"{self.base_url}/{upload_id}/parts", content=form(), headers=headers)
        return str(answer.json()["id"])

    def send_and_hang_up(self, upload_id: str) -> None:
        address = httpx.URL(self.base_url)
        with socket.create_connection((address.host, address.port)) as client:
            client.sendall(
                f"POST /v1/uploads/{upload_id}/parts HTTP/1.1\r\nHost: x\r\n"
                f"Authorization: {self.http.headers['authorization']}\r\nContent-Length: {PART_BYTES}\r\n"
                f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode()
            )
            client.sendall(HEAD + b"x" * 10_000_000)

    def complete(self, upload_id: str, part_ids: list[str], md5: str) -> httpx.Response:
        body = {"part_ids": part_ids, "md5": md5}
        return self.http.post(f"{self.base_url}/{upload_id}/complete", json=body)

    @cached_property
    def digests(self) -> tuple[str, str]:
        md5, sha256 = hashlib.md5(), hashlib.sha256()
        for number in range(PARTS):
            for piece in pieces(number):
                md5.update(piece)
                sha256.update(piece)
        return md5.hexdigest(), sha256.hexdigest()


@pytest.mark.soak
def test_two_gigabytes_in_parts_leave_the_apis_memory_as_it_was(live_server: AttuneUp) -> None:
    uploader = Uploader(live_server)
    upload_id = uploader.begin()
    md5, sha256 = uploader.digests
    with watched(psutil.Process(live_server.pid_of("api.cli", "api"))) as resident:
        with ThreadPoolExecutor(3) as pool:  # several at once, and the last ones first
            sent = list(pool.map(lambda number: uploader.send(upload_id, number), reversed(range(PARTS))))
        uploader.send_and_hang_up(upload_id)
        refused = uploader.complete(upload_id, sent[::-1], "0" * 32)
        done = uploader.complete(upload_id, sent[::-1], md5)
    print(f"{resident} while two gigabytes passed in parts")
    assert refused.json()["error"]["code"] == "md5_mismatch"
    file = done.json()["file"]
    assert (file["bytes"], file["sha256"]) == (TOTAL, sha256)
    assert resident.grown < 100 * 2**20
    uploader.http.delete(f"{live_server.base_url}/files/{file['id']}")
