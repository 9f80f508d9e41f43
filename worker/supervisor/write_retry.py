"""Writes that must not be lost: the end of an attempt or of a scan, which unwritten is charged as a lost worker."""

from collections.abc import Callable

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.records.database import is_outage
from api.records.jobs import StaleFence
from worker.supervisor.node import Node

log = structlog.get_logger(__name__)

AGAIN_S = 2


def written(node: Node, write: Callable[[Session], bool]) -> bool:
    """Write as soon as the database takes it. Returns what `write` returns; False if that was stale, or never written.

    What cannot be written before the worker has to stop, the sweep finds by its lease.
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
            if node.stopping.wait(AGAIN_S):
                return False
