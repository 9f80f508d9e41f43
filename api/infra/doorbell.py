"""The doorbell: notifications through the broker that make workers query the queue in the database at once.

A lost or duplicate notification is harmless, because it carries no state and a sweep of the workers repeats it.
"""

from collections.abc import Iterable

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from pydantic import SecretStr
from redis import Redis

from api.spec.lifecycle import Stage

log = structlog.get_logger(__name__)

RING_TIMEOUT_S = 1
BROKER_TIMEOUT_S = 2


def queue_name(stage: Stage) -> str:
    """Return the name of a stage's Celery queue, which is also the name of its only task."""
    return f"attune.{stage}"


def celery_app(broker_url: SecretStr, **transport_options: float) -> Celery:
    """Return a Celery app, configured alike for sender and receiver: JSON only, no results, early acknowledgement."""
    app = Celery("attune", broker=broker_url.get_secret_value(), set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        broker_transport_options=transport_options,
        broker_connection_retry_on_startup=True,
    )
    return app


def require_broker(broker_url: SecretStr) -> None:
    """Raise RedisError if the broker does not answer, or refuses the password."""
    with _connected(broker_url) as client:
        client.ping()


def require_space(broker_url: SecretStr) -> None:
    """Raise OutOfMemoryError if the broker is full, another RedisError if it does not answer."""
    with _connected(broker_url) as client:
        client.set("attune:probe", "", px=1)


def _connected(broker_url: SecretStr) -> Redis:
    timeouts = {"socket_timeout": BROKER_TIMEOUT_S, "socket_connect_timeout": BROKER_TIMEOUT_S}
    return Redis.from_url(broker_url.get_secret_value(), **timeouts)


class Doorbell:
    def __init__(self, broker_url: SecretStr) -> None:
        # Without short timeouts, a broker that hangs would block an HTTP request for twelve seconds.
        timeouts = {"socket_timeout": RING_TIMEOUT_S, "socket_connect_timeout": RING_TIMEOUT_S}
        self._app = celery_app(broker_url, **timeouts, max_retries=0) if broker_url.get_secret_value() else None

    def ring(self, stage: Stage, job_id: str) -> bool:
        """Notify the workers of a stage. The job's id is for logs only. Return whether the notification was sent.

        A failure is logged and not raised: a worker's next sweep sends the notification again.
        """
        if self._app is None:
            return False
        try:
            self._app.send_task(queue_name(stage), args=[job_id], queue=queue_name(stage), retry=False)
        except (OperationalError, OSError) as error:
            log.warning("ring_failed", stage=stage, job_id=job_id, error=type(error).__name__)
            return False
        return True

    def ring_all(self, rings: Iterable[tuple[Stage, str]]) -> None:
        """Notify the workers of each stage and job, up to the first failure: each may be a time-out."""
        all(self.ring(stage, job_id) for stage, job_id in rings)
