"""What a stranger can do to the API before there is a request: asked of the protocol itself, on a real event loop."""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
import uvicorn

from api.context import Caller
from api.http import uvicorn_protocol
from api.http.uvicorn_protocol import HttpProtocol, HttpServer, log_rate_limited, make_room

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
MUCH = 16 * 2**20
"""Bytes: more than the kernel keeps for a client that does not read."""
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def _ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def _reads(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await _ok(scope, receive, send)


async def _much(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(MUCH).encode())]})
    for more in range(MUCH // 2**20 - 1, -1, -1):
        await send({"type": "http.response.body", "body": bytes(2**20), "more_body": more > 0})


@asynccontextmanager
async def _served(app: Any = _ok, fd: int | None = None) -> AsyncIterator[Callable[[], Awaitable[Connection]]]:
    server = HttpServer(uvicorn.Config(app, port=0, fd=fd, http=HttpProtocol, log_config=None, lifespan="off"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    try:
        yield lambda: asyncio.open_connection(host, port)
    finally:
        server.should_exit = True
        await running


async def _answer(connection: Connection, request: bytes = GET) -> bytes:
    reader, writer = connection
    writer.write(request)
    return await reader.readuntil(b"\r\n")


def test_client_that_never_finishes_its_headers_is_told_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_protocol, "HEAD_S", 0.2)

    async def scenario() -> None:
        async with _served() as connect:
            reader, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\nX: ")
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"request_timeout" in answer
            silent, _ = await connect()
            assert await silent.read() == b""

    asyncio.run(scenario())


def test_slow_second_request_of_a_connection_has_the_same_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_protocol, "HEAD_S", 0.2)

    async def scenario() -> None:
        async with _served() as connect:
            reader, writer = await connect()
            assert await _answer((reader, writer), GET + GET[:10]) == b"HTTP/1.1 200 OK\r\n"
            assert b"HTTP/1.1 408 " in await reader.read()

    asyncio.run(scenario())


@pytest.mark.parametrize("late", [b"", b"x", b"x" * 9, b"x" * 9 + GET[:10]])
def test_body_that_nobody_waits_for_keeps_no_connection_open(monkeypatch: pytest.MonkeyPatch, late: bytes) -> None:
    monkeypatch.setattr(uvicorn_protocol, "HEAD_S", 0.3)

    async def scenario() -> None:
        async with _served() as connect:
            reader, writer = await connect()
            request = GET[:-2] + b"Content-Length: 9\r\n\r\n"
            assert await _answer((reader, writer), request) == b"HTTP/1.1 200 OK\r\n"
            writer.write(late)
            async with asyncio.timeout(3):
                await reader.read()

    asyncio.run(scenario())


def test_client_that_reads_nothing_is_let_go_and_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_protocol, "HEAD_S", 0.1)
    monkeypatch.setattr(uvicorn_protocol, "STALL_S", 0.2)

    async def scenario() -> None:
        async with _served(_much) as connect:
            _, writer = await connect()
            writer.write(GET)
            while not HttpProtocol.idle or not next(iter(HttpProtocol.idle)).flow.write_paused:
                await asyncio.sleep(0.01)
            stalled = next(iter(HttpProtocol.idle))
            async with asyncio.timeout(3):
                while stalled in HttpProtocol.idle:
                    await asyncio.sleep(0.01)
            assert stalled.transport.is_closing()

    asyncio.run(scenario())


@pytest.mark.parametrize("end", [b"Connection: close\r\n\r\n", b"\r\n\0\r\n\r\n"], ids=["close", "garbage behind"])
def test_clients_that_read_nothing_hold_little_memory_and_none_of_other_projects(
    end: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpProtocol, "max_unread_bytes", 2 * MUCH)

    async def at_once(scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["caller"] = Caller(scope["query_string"].decode(), "key", "read")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(MUCH).encode())]})
        await send({"type": "http.response.body", "body": bytes(MUCH)})

    async def scenario() -> None:
        async with _served(at_once) as connect:
            first, *others = [await connect() for _ in range(4)]
            for project, (_, writer) in zip((b"one", *[b"other"] * 3), (first, *others), strict=True):
                writer.write(b"GET /?" + project + b" HTTP/1.1\r\nHost: x\r\n" + end)
                await asyncio.sleep(0.05)
            assert len(await first[0].read()) > MUCH
            assert len(await others[0][0].read()) < MUCH, "it waited longest, and its project had most"
            assert sum(HttpProtocol.unread.values()) <= 2 * MUCH
            for _, writer in (first, *others):
                writer.transport.abort()

    asyncio.run(scenario())


def test_client_that_reads_slowly_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_protocol, "HEAD_S", 0.05)
    monkeypatch.setattr(uvicorn_protocol, "STALL_S", 0.5)

    async def scenario() -> None:
        async with _served(_much) as connect:
            reader, writer = await connect()
            writer.write(GET)
            await reader.readuntil(b"\r\n\r\n")
            for _ in range(MUCH // 2**20):
                await reader.readexactly(2**20)
                await asyncio.sleep(0.05)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 2\r\n ,2\r\n",
        b"X: a\r\n\tContent-Length: 2\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"transfer-encoding:chunked\r\nContent-Length: 5\r\n",
    ],
)
def test_head_that_two_readers_may_read_in_two_ways_is_refused(framing: bytes) -> None:
    async def scenario() -> None:
        async with _served() as connect:
            assert b" 400 " in await _answer(await connect(), GET[:-2] + framing + b"\r\n0\r\n\r\n")

    asyncio.run(scenario())


def test_connections_without_a_request_make_room_for_those_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpProtocol, "max_connections", 20)

    async def scenario() -> None:
        async with _served() as connect:
            half_open = [await connect() for _ in range(200)]
            for _, writer in half_open:
                writer.write(b"GET / HTTP/1.1\r\n")
            assert await _answer(await connect()) == b"HTTP/1.1 200 OK\r\n"
            assert len(HttpProtocol.idle) <= 20
            dropped = [reader for reader, _ in half_open[:150]]
            assert set(await asyncio.gather(*(reader.read() for reader in dropped))) == {b""}

    asyncio.run(scenario())


def test_bodies_that_stay_incomplete_make_room_and_a_steady_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpProtocol, "max_connections", 20)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n"

    async def scenario() -> None:
        async with _served(_reads) as connect:
            steady = await connect()
            steady[1].write(head)
            stalled = [await connect() for _ in range(19)]
            for _, writer in stalled:
                writer.write(head + b"x")
            while len(HttpProtocol.receiving) < 20:
                await asyncio.sleep(0.01)
            steady[1].write(b"x")
            while next(reversed(HttpProtocol.receiving)).transport.get_extra_info("peername") != _own(steady):
                await asyncio.sleep(0.01)
            assert await _answer(await connect()) == b"HTTP/1.1 200 OK\r\n"
            async with asyncio.timeout(5):
                assert await stalled[0][0].read() == b""
                assert await _answer(steady, b"x" * 98) == b"HTTP/1.1 200 OK\r\n"
            for _, writer in stalled:
                writer.close()

    asyncio.run(scenario())


def _own(connection: Connection) -> Any:
    return connection[1].get_extra_info("sockname")


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_response_on_an_inherited_socket_waits_for_no_acknowledgment(
    host: str, family: socket.AddressFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted: list[socket.socket] = []
    connection_made = HttpProtocol.connection_made

    def remember(self: HttpProtocol, transport: asyncio.Transport) -> None:
        accepted.append(transport.get_extra_info("socket"))
        connection_made(self, transport)

    monkeypatch.setattr(HttpProtocol, "connection_made", remember)

    async def scenario() -> None:
        async with _served(fd=socket.create_server((host, 0), family=family).detach()) as connect:
            assert await _answer(await connect()) == b"HTTP/1.1 200 OK\r\n"
            assert accepted[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

    asyncio.run(scenario())


def test_limit_on_open_files_is_raised_and_connections_fit_under_it() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        most = make_room(1_000_000)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 2 * most
        assert make_room(100) == 100
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_flood_of_one_fault_is_one_line_and_a_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_protocol, "_logged", {})
    with structlog.testing.capture_logs() as logs:
        log = structlog.get_logger()
        for _ in range(1000):
            log_rate_limited(log.error, "accept_failed", error="too many open files")
        monkeypatch.setattr(uvicorn_protocol, "LOG_EVERY_S", 0.0)
        log_rate_limited(log.error, "accept_failed", error="too many open files")
    assert [line.get("suppressed") for line in logs] == [None, 999]
