"""Celery's ear on Redis, which a message that nobody can read does not deafen.

A list in Redis takes whatever its writers push. kombu reads a message and delivers it inside the event loop, where any
error but a connection's ends the whole worker, with exit code 0.
"""

from collections.abc import Callable
from queue import Empty
from typing import Any

import structlog
from kombu.transport import redis

log = structlog.get_logger(__name__)


class Channel(redis.Channel):
    """Drops what cannot be delivered."""

    def _brpop_read(self, **options: Any) -> Any:
        return self._forgiving(super()._brpop_read, **options)

    def _receive(self) -> Any:
        return self._forgiving(super()._receive)

    def _forgiving(self, read: Callable[..., Any], **options: Any) -> Any:
        known = set(self.qos._delivered)
        try:
            return read(**options)
        except (Empty, *self.connection_errors, *self.connection.channel_errors):
            raise
        except Exception as error:
            log.warning("bad_message_dropped", error=type(error).__name__)
            for tag in set(self.qos._delivered) - known:  # else it would come again
                self.basic_reject(tag, requeue=False)  # type: ignore[no-untyped-call]
            return True


class Transport(redis.Transport):
    Channel = Channel
