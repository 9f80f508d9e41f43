"""Retried writes, for the end of an attempt or a scan. If such a write is lost, the job loses a retry as if its worker
had been lost."""

from collections.abc import Callable

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.records.database import is_outage
from api.records.jobs import StaleFence
from worker.supervisor.node import Node

log = structlog.get_logger(__name__)

RETRY_S = 2


def write_with_retry(node: Node, write: Callable[[Session], bool]) -> bool:
    """Run `write` in a transaction, and retry it during an outage. Return its result.

    Returns False if the attempt no longer owns the job (StaleFence), the write fails, or the worker shuts down first.
    Then the sweep of another worker ends the attempt when its lease expires.
    """
    while True:
        try:
            with node.context.database.write() as session:
                return write(session)
        except StaleFence:
            return False
        except SQLAlchemyError as error:
            if not is_outage(error):
                log.exception("not_written")
                return False
            log.warning("not_written_yet", error=type(error.__cause__ or error).__name__)
            if node.stopping.wait(RETRY_S):
                return False
