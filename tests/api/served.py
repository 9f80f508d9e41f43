"""The app behind a real socket: for what a test client without one cannot show."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from api.http.uvicorn_protocol import HttpProtocol


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """Its address, while it listens on a free port of loopback."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, http=HttpProtocol, log_config=None, timeout_graceful_shutdown=1)
    )
    started, start = threading.Event(), server.startup

    async def startup(sockets=None) -> None:
        await start(sockets)
        started.set()

    server.startup = startup  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert started.wait(30)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(30)
