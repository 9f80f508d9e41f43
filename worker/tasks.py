"""What a ring does."""

import structlog
from celery import Celery

from api.queue import queue_name
from worker.supervisor.node import Node
from worker.supervisor.supervise import drain
from worker.supervisor.warm import WarmTrainers

log = structlog.get_logger(__name__)


def add_task(app: Celery, node: Node, warm: WarmTrainers) -> None:
    @app.task(name=queue_name(node.stage))  # type: ignore[untyped-decorator]
    def rung(job_id: str) -> None:
        log.info("rung", job_id=job_id)
        drain(node, warm)
