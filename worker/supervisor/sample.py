"""A sampler's supervisor: takes jobs from the sample queue, fetches their models, and feeds the child that samples.

The child is started with the first job, and ended when no job has come for a while.
"""

import secrets
import signal
import threading
import time
from pathlib import Path
from typing import Any

import redis
import structlog

from api.infra.beats import ProcessReport, reporting
from api.infra.child_process import fork_server
from api.infra.sample_queue import BEAT_S, LISTEN_S, Consumer, SampleJob
from api.infra.storage import ObjectCorrupt, ObjectMissing, Storage, StorageUnavailable
from api.settings import Settings
from api.spec.catalog import TECHNIQUES
from api.spec.lifecycle import SAMPLE
from api.spec.sampling import SamplerJob
from worker.shared.gpus import visible_gpus
from worker.shared.hardware import worker_resources
from worker.shared.reports import (
    LAST_REPORTS,
    SAMPLING_REPORTS,
    FailedReport,
    LostReport,
    RefusedReport,
    Report,
    SamplerReport,
    as_dict,
)
from worker.supervisor.adapter_cache import AdapterCache
from worker.supervisor.child import Child
from worker.supervisor.inputs import fetch_once
from worker.supervisor.node import LIBRARIES, claim_work_dir

log = structlog.get_logger(__name__)

POLL_S = 0.5
CANCEL_S = 10.0
"""How long a child may take to notice a cancellation. A child processes a long prompt without a break."""
RECONNECT_S = 2.0


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    owner, folder, _lock = claim_work_dir(settings.work, SAMPLE)
    sampler = Sampler(settings, Storage(settings.storage), folder)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sampler.stopping.set())
    with reporting(settings.broker_url, lambda: sampler.report(owner)):
        sampler.run()


def _machine() -> dict[str, Any]:
    """Return the hardware of the child, as fields of a report."""
    gpus = visible_gpus()[-1:]
    facts = worker_resources(gpus, slots=1)
    return {"gpus": len(gpus), **{name: facts[name] for name in ("device", "gpu_memory_bytes", "memory_bytes")}}


class ChildLost(Exception):
    """The child ended, or was killed, before its answer was complete."""


class Sampler:
    def __init__(self, settings: Settings, storage: Storage, folder: Path) -> None:
        self._settings, self._storage, self._folder = settings, storage, folder
        self._queue = Consumer(settings.broker_url, secrets.token_hex(8))
        self._adapters = AdapterCache(storage, folder / "adapters")
        self._child: Child | None = None
        self._server = None
        if settings.fork_server:
            self._server = fork_server(*(LIBRARIES if visible_gpus() else ("worker.sample",)))
        self._used_at = time.monotonic()
        self._machine = _machine()
        self._answering = 0
        """Requests that are being answered."""
        self.stopping = threading.Event()

    def run(self) -> None:
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        log.info("sampler_ready", name=self._queue.name)
        while not self.stopping.is_set():
            try:
                job = self._queue.take(LISTEN_S)
            except redis.RedisError as error:
                log.warning("broker_unavailable", error=type(error).__name__)
                self.stopping.wait(RECONNECT_S)
                continue
            if job is not None:
                self._answering = 1
                self.serve(job)
                self._answering = 0
                self._used_at = time.monotonic()
            elif time.monotonic() - self._used_at > self._settings.sample_idle_s:
                self.close()
        self.close()

    def report(self, owner: str) -> ProcessReport:
        """Describe this process, from any thread."""
        return ProcessReport(owner=owner, stage=SAMPLE, slots=1, answering=self._answering, **self._machine)

    def close(self) -> None:
        """Kill the child. The next job starts another."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def serve(self, job: SampleJob) -> None:
        """Answer one job, with an error report if it fails."""
        with structlog.contextvars.bound_contextvars(answer_id=job.id, project_id=job.project_id):
            try:
                self._answer(job)
            except redis.RedisError as error:
                log.warning("answer_lost", error=type(error).__name__)
                self.close()  # it would continue an answer that nobody receives

    def _answer(self, job: SampleJob) -> None:
        started_at = time.monotonic()
        try:
            report: Report = self._relay(job, self._request(job))
        except redis.RedisError:
            raise  # no report can be sent
        except ChildLost:
            self.close()
            report = LostReport(id=job.id)
        except ObjectMissing:
            message = "The model was deleted while the request waited"
            report = RefusedReport(id=job.id, message=message, param="model", code="model_not_found")
        except (ObjectCorrupt, StorageUnavailable, OSError):
            log.exception("model_not_fetched")
            message = "The model could not be fetched"
            report = FailedReport(id=job.id, reason="storage_unavailable", message=message)
        except Exception:
            log.exception("sample_failed")
            self.close()
            report = FailedReport(id=job.id, reason="internal_error", message=None)
        fields = as_dict(report)
        self._queue.report(job, fields)
        log.info("sampled", outcome=fields["type"], ms=round(1000 * (time.monotonic() - started_at)))

    def _request(self, job: SampleJob) -> SamplerJob:
        """Return the request with the folders of its model, which are fetched if they are not cached."""
        model = job.content["model"]
        base, adapter = model["base"], model["adapter"]
        whole = model["technique"] is not None and TECHNIQUES[model["technique"]["type"]].whole_model
        folder = self._settings.work / "cache" / "base" / base["digest"]
        if not whole:
            fetch_once(self._storage, base["artifacts"], folder)
        return SamplerJob(
            id=job.id,
            base=str(folder),
            adapter=str(self._adapters.fetch(adapter["artifacts"])) if adapter is not None else None,
            technique=model["technique"],
            **job.content["ask"],
        )

    def _relay(self, job: SampleJob, request: SamplerJob) -> Report:
        """Send the request to the child and its reports to the client. Return the last one, which is not sent yet.

        Raises ChildLost.
        """
        child = self._running_child()
        child.command(cmd="sample", request=request.model_dump(mode="json"))
        polled_at, cancelled_at = time.monotonic(), None
        while True:
            now = time.monotonic()
            if self.stopping.is_set() or (cancelled_at is not None and now - cancelled_at > CANCEL_S):
                raise ChildLost
            if cancelled_at is None and now - polled_at > POLL_S:
                polled_at = now
                if not self._queue.is_wanted(job):
                    cancelled_at = now
                    child.command(cmd="cancel", id=job.id)
            try:
                report = child.next_report(POLL_S)
            except TimeoutError:
                continue
            if report is None:
                log.error("sampler_died", exit_code=child.wait(1.0), log=child.log_tail())
                raise ChildLost
            if isinstance(report, LAST_REPORTS):
                return report
            if cancelled_at is None and isinstance(report, SamplerReport):
                self._queue.report(job, as_dict(report))

    def _running_child(self) -> Child:
        if self._child is None or not self._child.alive:
            # The last GPU: trainers take them in order from the first.
            gpu = next(reversed(visible_gpus()), None)
            log_file = self._folder / "log.txt"
            self._child = Child(
                "worker.sample", gpu=gpu, log_file=log_file, reports=SAMPLING_REPORTS, server=self._server
            )
        return self._child

    def _beat(self) -> None:
        """Keep this sampler registered until it stops."""
        while not self.stopping.is_set():
            try:
                self._queue.beat()
            except Exception as error:  # any other end of this thread would deregister a healthy sampler
                log.warning("heartbeat_failed", error=type(error).__name__)
            self.stopping.wait(BEAT_S)
        try:
            self._queue.deregister()
        except redis.RedisError as error:
            log.warning("heartbeat_failed", error=type(error).__name__)
