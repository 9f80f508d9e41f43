"""Metrics and messages on their way into the database: collected while it is away, written in batches otherwise."""

import time
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from api.records import events, jobs
from api.records.base import db_now
from api.records.database import is_outage
from api.records.jobs import Job
from api.records.queue import Claim
from api.spec.formats.base import truncate
from worker.supervisor.node import Node

FLUSH_S = 1.0
SHOWN_LETTERS = 80
"""Of a sampled answer, and of the end of its prompt, in a message. Its data holds more."""

MENTIONED = {
    "train_reward": "reward",
    "valid_loss": "validation loss",
    "valid_reward": "validation reward",
    "full_valid_loss": "full validation loss",
}
"""Metrics that are told in the message of a step, where it has them."""


class Progress:
    def __init__(self, node: Node, claim: Claim, job: Job) -> None:
        self._node, self._claim = node, claim
        self._seen_step = job.progress.get("step", 0)
        self._progress: dict[str, Any] = dict(job.progress)
        self._waiting: list[dict[str, Any]] = []
        self._flushed_at = 0.0
        self._changed = False

    def add(self, report: dict[str, Any]) -> None:
        """Take a metrics, samples, phase or warning report. Steps that were trained before a resume are not told
        twice."""
        if report["type"] in ("metrics", "samples") and report["step"] <= self._seen_step:
            return
        self._changed = True
        if report["type"] == "metrics":
            self._seen_step = report["step"]
            self._progress |= {"step": report["step"], "total_steps": report["total_steps"]}
        elif report["type"] == "phase":
            self._progress["phase"] = report["phase"]
            return
        self._waiting.append(report)

    def flush(self, *, force: bool = False) -> None:
        """Write what has collected, about once a second. Raises Stale; an outage only postpones it."""
        now = time.monotonic()
        if not self._changed or (now - self._flushed_at < FLUSH_S and not force):
            return
        try:
            with self._node.context.database.write() as session:
                estimate = self._estimate()
                jobs.update_fenced(session, self._claim.job_id, self._claim.fence, progress=self._progress, **estimate)
                for report in self._waiting:
                    _tell(session, self._claim.job_id, report)
        except SQLAlchemyError as error:
            if force or not is_outage(error):
                raise
            return
        self._waiting.clear()
        self._flushed_at, self._changed = now, False

    def _estimate(self) -> dict[str, Any]:
        """The end by the pace of the newest step; nothing new while there is none."""
        last = next((report for report in reversed(self._waiting) if report["type"] == "metrics"), None)
        if last is None or not last.get("tokens_per_second"):
            return {}
        seconds_a_step = last["tokens"] / last["tokens_per_second"]
        return {"estimated_finish": db_now() + (last["total_steps"] - last["step"]) * seconds_a_step}


def _tell(session: Any, job_id: str, report: dict[str, Any]) -> None:
    if report["type"] == "warning":
        events.add_event(session, job_id, report["message"], level="warn")
        return
    data = {name: value for name, value in report.items() if name != "type"}
    if report["type"] == "samples":
        if data["samples"]:
            events.add_event(session, job_id, _sample(data["step"], data["samples"][0]), data=data)
        return
    message = f"Step {data['step']}/{data['total_steps']}: training loss={_number(data['train_loss'])}"
    for name, words in MENTIONED.items():
        if name in data:
            message += f", {words}={_number(data[name])}"
    events.add_event(session, job_id, message, type="metrics", data=data)


def _sample(step: int, sample: dict[str, Any]) -> str:
    """One of the step's answers, as a line."""
    prompt, answer = (" ".join(str(sample[part]).split()) for part in ("prompt", "answer"))
    tail = prompt if len(prompt) <= SHOWN_LETTERS else f"…{prompt[-SHOWN_LETTERS:]}"
    reward = _number(sample["reward"])
    return (
        f"Step {step} sample (reward {reward}): {truncate(tail, SHOWN_LETTERS + 1)} → {truncate(answer, SHOWN_LETTERS)}"
    )


def _number(value: float | None) -> str:
    """The pipe has no NaN and no infinity: they arrive as null."""
    return "not a number" if value is None else f"{value:.2f}"
