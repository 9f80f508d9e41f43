"""Metrics and messages on their way into the database: collected while it is away, written in batches otherwise."""

import time
from typing import Any

from sqlalchemy.exc import DBAPIError

from api.records import events, jobs
from api.records.base import db_now
from api.records.database import is_outage
from api.records.jobs import Job
from api.records.queue import Claim
from worker.supervisor.node import Node

FLUSH_S = 1.0


class Progress:
    def __init__(self, node: Node, claim: Claim, job: Job) -> None:
        self._node, self._claim = node, claim
        self._seen_step = job.progress.get("step", 0)
        self._progress: dict[str, Any] = dict(job.progress)
        self._waiting: list[dict[str, Any]] = []
        self._flushed_at = 0.0

    def add(self, report: dict[str, Any]) -> None:
        """Take a metrics, phase or warning report. Steps that were trained before a resume are not told twice."""
        if report["type"] == "metrics":
            if report["step"] <= self._seen_step:
                return
            self._seen_step = report["step"]
            self._progress |= {"step": report["step"], "total_steps": report["total_steps"]}
        elif report["type"] == "phase":
            self._progress["phase"] = report["phase"]
            return
        self._waiting.append(report)

    def flush(self, *, force: bool = False) -> None:
        """Write what has collected, about once a second. Raises Stale; an outage only postpones it."""
        now = time.monotonic()
        if not self._waiting or (now - self._flushed_at < FLUSH_S and not force):
            return
        try:
            with self._node.context.database.write() as session:
                jobs.write(
                    session,
                    self._claim.job_id,
                    self._claim.fence,
                    progress=self._progress,
                    estimated_finish=db_now() + self._seconds_left(),
                )
                for report in self._waiting:
                    _tell(session, self._claim.job_id, report)
        except DBAPIError as error:
            if force or not is_outage(error):
                raise
            return
        self._waiting.clear()
        self._flushed_at = now

    def _seconds_left(self) -> float:
        """By the pace of the newest steps."""
        steps = [report for report in self._waiting if report["type"] == "metrics"]
        if not steps or not steps[-1].get("tokens_per_second"):
            return 0.0
        last = steps[-1]
        tokens_a_step = last["tokens"] / last["step"]
        return float((last["total_steps"] - last["step"]) * tokens_a_step / last["tokens_per_second"])


def _tell(session: Any, job_id: str, report: dict[str, Any]) -> None:
    if report["type"] == "warning":
        events.say(session, job_id, report["message"], level="warn")
        return
    data = {name: value for name, value in report.items() if name != "type"}
    message = f"Step {data['step']}/{data['total_steps']}: training loss={data['train_loss']:.2f}"
    for name, words in (("valid_loss", "validation loss"), ("full_valid_loss", "full validation loss")):
        if name in data:
            message += f", {words}={data[name]:.2f}"
    events.say(session, job_id, message, type="metrics", data=data)
