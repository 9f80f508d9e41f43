"""The doorbell. A ring says "look at the queue", nothing more: rows decide, so a lost or doubled ring is harmless."""

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from pydantic import SecretStr

from api.spec.lifecycle import Stage

log = structlog.get_logger(__name__)

RING_TIMEOUT_S = 1


def queue_name(stage: Stage) -> str:
    """The Celery queue of a stage, and the name of the one task that is sent there."""
    return f"attune.{stage}"


def celery_app(broker_url: SecretStr, **transport_options: float) -> Celery:
    """What both ends of the bell agree on: JSON only, no results, early acknowledgement."""
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


class Doorbell:
    def __init__(self, broker_url: SecretStr) -> None:
        # Short timeouts: without them a broker that hangs would hold an HTTP request for twelve seconds.
        timeouts = {"socket_timeout": RING_TIMEOUT_S, "socket_connect_timeout": RING_TIMEOUT_S}
        self._app = celery_app(broker_url, **timeouts, max_retries=0) if broker_url.get_secret_value() else None

    def ring(self, stage: Stage, job_id: str) -> None:
        """Send the id, for the log's sake. That nobody hears it is no error: the sweep rings again."""
        if self._app is None:
            return
        try:
            self._app.send_task(queue_name(stage), args=[job_id], queue=queue_name(stage), retry=False)
        except (OperationalError, OSError) as error:
            log.warning("ring_failed", stage=stage, job_id=job_id, error=type(error).__name__)
