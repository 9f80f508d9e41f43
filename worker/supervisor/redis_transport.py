"""kombu's Redis transport for Celery, changed to drop messages that it cannot deliver.

A list in Redis accepts whatever is pushed. kombu reads and delivers a message inside its event loop, where any error
other than a connection's ends the whole worker with exit code 0.
"""

from collections.abc import Callable
from queue import Empty

import structlog
from kombu.transport import redis

log = structlog.get_logger(__name__)


class Channel(redis.Channel):
    """Drops messages that cannot be delivered."""

    def _brpop_read(self, **options: object) -> object:
        return self._dropping_bad_messages(super()._brpop_read, **options)

    def _receive(self) -> object:
        return self._dropping_bad_messages(super()._receive)

    def _dropping_bad_messages(self, read: Callable[..., object], **options: object) -> object:
        known = set(self.qos._delivered)
        try:
            return read(**options)
        except (Empty, *self.connection_errors, *self.connection.channel_errors):
            raise
        except Exception as error:
            log.warning("bad_message_dropped", error=type(error).__name__)
            for tag in set(self.qos._delivered) - known:  # otherwise it would be redelivered
                self.basic_reject(tag, requeue=False)  # type: ignore[no-untyped-call]
            return True


class Transport(redis.Transport):
    Channel = Channel
