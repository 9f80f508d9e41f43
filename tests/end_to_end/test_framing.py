"""What a request smuggler sends, byte by byte."""

import socket

import httpx
import pytest

from tests.services import AttuneUp

BODY = b"2\r\n{}\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 12\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 12\r\n",
        b"Content-Length: 12\r\nContent-Length: 2\r\n",
        b"Content-Length: 12\r\nContent-Length: 12\r\n",
        b"Content-Length: 12, 12\r\n",
        b"Content-Length: 12\nX: y\r\n",
        b"Content-Length: 12\r\nX: y\n",
    ],
)
def test_a_body_of_two_lengths_is_refused(live_server: AttuneUp, framing: bytes) -> None:
    address = httpx.URL(live_server.base_url)
    with socket.create_connection((address.host, address.port), timeout=30) as client:
        key = f"Authorization: Bearer {live_server.api_key}\r\n".encode()
        client.sendall(b"POST /v1/fine_tuning/jobs HTTP/1.1\r\nHost: x\r\n" + key + framing + b"\r\n" + BODY)
        assert client.recv(65536).startswith(b"HTTP/1.1 400")
