"""A sampler's supervisor: takes jobs from the sample queue, fetches their models, and sends them to the child that
samples.

A thread for each job relays its reports. The child is started with the first job, and killed when no job has come for
`sample_idle_s`.
"""

import queue
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
from api.infra.storage import ObjectCorrupt, ObjectMissing, ReadingStopped, Storage, StorageUnavailable
from api.settings import Settings
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
    as_dict,
)
from worker.supervisor.adapter_cache import AdapterCache
from worker.supervisor.child import Child
from worker.supervisor.inputs import fetch_once
from worker.supervisor.node import LIBRARIES, claim_work_dir
from worker.supervisor.sampling_child import POLL_S, ChildLost, SamplingChild
from worker.supervisor.vllm_server import VllmServer

log = structlog.get_logger(__name__)

RECONNECT_S = 2.0
PLACE_S = 0.1
"""Seconds between checks for a free place."""
STOP_S = 5.0
"""Seconds that a shutdown waits for each request's thread, which reports that the sampler has ended."""


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    owner, folder, _lock = claim_work_dir(settings.work, SAMPLE)
    sampler = Sampler(settings, Storage(settings.storage), folder)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sampler.stopping.set())
    with reporting(settings.broker_url, lambda: sampler.report(owner)):
        sampler.run()


def _machine() -> dict[str, Any]:
    """Return the hardware of the child, as fields of a ProcessReport."""
    gpus = visible_gpus()[-1:]
    facts = worker_resources(gpus, slots=1)
    return {"gpus": len(gpus), **{name: facts[name] for name in ("device", "gpu_memory_bytes", "memory_bytes")}}


class Sampler:
    def __init__(self, settings: Settings, storage: Storage, folder: Path) -> None:
        self.stopping = threading.Event()
        self._settings, self._storage, self._folder = settings, storage.reading_until(self.stopping), folder
        self._queue = Consumer(settings.broker_url, secrets.token_hex(8))
        self._adapters = AdapterCache(self._storage, folder / "adapters")
        self._child: SamplingChild | None = None
        self._vllm = VllmServer(settings) if settings.sample_vllm_url else None
        self._away = self._vllm is not None
        """Whether the vLLM server does not answer. Until it does, no request is taken."""
        self._starting = threading.Lock()
        self._jobs: dict[str, SampleJob] = {}
        self._lost: queue.SimpleQueue[SampleJob] = queue.SimpleQueue()
        """Requests whose reports the broker did not take."""
        self._threads: list[threading.Thread] = []
        self._server = None
        if settings.fork_server:
            gpus = visible_gpus()
            self._server = fork_server(*(LIBRARIES if gpus else ("worker.sample",)), may_borrow=not gpus)
        self._used_at = time.monotonic()
        self._machine = _machine()

    def run(self) -> None:
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        log.info("sampler_ready", name=self._queue.name)
        while not self.stopping.is_set():
            try:
                job = self._take()
            except redis.RedisError as error:
                log.warning("broker_unavailable", error=type(error).__name__)
                self.stopping.wait(RECONNECT_S)
                continue
            if job is not None:
                thread = threading.Thread(target=self.serve, args=(job,), name=job.id, daemon=True)
                self._threads = [*(each for each in self._threads if each.is_alive()), thread]
                self._jobs[job.id] = job
                thread.start()
            elif not self._jobs and time.monotonic() - self._used_at > self._settings.sample_idle_s:
                self.close()
        for thread in self._threads:
            thread.join(STOP_S)
        self.close()
        if self._vllm is not None:
            self._vllm.close()

    def report(self, owner: str) -> ProcessReport:
        """Return what the list of workers shows of this process. Any thread may call it."""
        return ProcessReport(
            owner=owner, stage=SAMPLE, slots=self._settings.sample_batch, answering=len(self._jobs), **self._machine
        )

    def _take(self) -> SampleJob | None:
        """Return the next request, or None if there is none or no place for it. Requests of batches take free places
        only. Other requests may also take the place of a batch's request, which then waits."""
        places, jobs = self._settings.sample_batch, list(self._jobs.values())
        if self._away or sum(not job.background for job in jobs) >= places:
            self.stopping.wait(PLACE_S)
            return None
        background = len(jobs) < places
        return self._queue.take(LISTEN_S if background else PLACE_S, background=background)

    def close(self, child: SamplingChild | None = None) -> None:
        """Kill the child; the next job starts another. `child`: do nothing if another child has replaced this one."""
        with self._starting:
            if self._child is not None and child in (None, self._child):
                self._child.kill()
                self._child = None

    def serve(self, job: SampleJob) -> None:
        """Answer one job, with an error report if it fails."""
        with structlog.contextvars.bound_contextvars(answer_id=job.id, project_id=job.project_id):
            try:
                self._answer(job)
            except redis.RedisError as error:
                log.warning("answer_lost", error=type(error).__name__)
                self._lost.put(job)
            finally:
                self._used_at = time.monotonic()
                self._adapters.release(job.id)
                self._jobs.pop(job.id, None)

    def _answer(self, job: SampleJob) -> None:
        started_at = time.monotonic()
        try:
            report: Report = self._relay(job)
        except redis.RedisError:
            raise  # no report can be sent
        except (ChildLost, ReadingStopped):
            report = LostReport(id=job.id)
        except ObjectMissing:
            log.warning("model_missing")
            message = "The model was deleted while the request waited, or the storage has lost its files"
            report = RefusedReport(id=job.id, message=message, param="model", code="model_not_found")
        except (ObjectCorrupt, StorageUnavailable, OSError):
            log.exception("model_not_fetched")
            message = "The model could not be fetched"
            report = FailedReport(id=job.id, reason="storage_unavailable", message=message)
        except Exception:
            log.exception("sample_failed")
            report = FailedReport(id=job.id, reason="internal_error", message=None)
        fields = as_dict(report)
        self._queue.report(job, fields)
        log.info("sampled", outcome=fields["type"], ms=round(1000 * (time.monotonic() - started_at)))

    def _request(self, job: SampleJob) -> SamplerJob:
        """Return the request as the child reads it, with the folders of its model. An adapter, or a whole model, is
        fetched if it is not cached."""
        model = job.content["model"]
        adapter = model["adapter"]
        return SamplerJob(
            id=job.id,
            base=str(self._settings.work / "cache" / "base" / model["base"]["digest"]),
            adapter=None if adapter is None else str(self._adapters.fetch(adapter["artifacts"], user=job.id)),
            background=job.background,
            technique=model["technique"],
            **job.content["ask"],
        )

    def _relay(self, job: SampleJob) -> Report:
        """Send the request to the vLLM server, if it can answer it, or to the child, and the reports to the client.
        Return the last report, which the caller sends.

        Raises ChildLost if the child ended or was killed before its last report.
        """
        request, base = self._request(job), job.content["model"]["base"]
        child: SamplingChild | VllmServer
        if self._vllm is not None and (served := self._vllm.model_of(base, request)) is not None:
            child = self._vllm
            child.send(request, served)
        else:
            if request.technique is None or not request.technique.whole_model:
                fetch_once(self._storage, base["artifacts"], Path(request.base))
            child = self._running_child()
            child.send(request)
        try:
            return self._until_last(job, child)
        except ChildLost:
            if isinstance(child, SamplingChild):
                self.close(child)
            raise
        except Exception:
            child.cancel(job.id)  # otherwise the child would generate an answer that nobody receives
            raise
        finally:
            child.forget(job.id)

    def _until_last(self, job: SampleJob, child: SamplingChild | VllmServer) -> Report:
        polled_at, cancelled = time.monotonic(), False
        while True:
            if self.stopping.is_set() or (cancelled and child.works_for_nobody()):
                raise ChildLost
            if not cancelled and time.monotonic() - polled_at > POLL_S:
                polled_at = time.monotonic()
                if cancelled := not self._queue.is_wanted(job):
                    child.cancel(job.id)
            try:
                report = child.next_report(job.id)
            except TimeoutError:
                continue
            if isinstance(report, LAST_REPORTS):
                return report
            if not cancelled:
                self._queue.report(job, as_dict(report))

    def _running_child(self) -> SamplingChild:
        with self._starting:
            if self._child is None or not self._child.alive:
                self._child = SamplingChild(
                    Child(
                        "worker.sample",
                        str(self._settings.sample_batch),
                        str(self._settings.sample_cache_tokens),
                        # The last GPU, because trainers take GPUs in order from the first.
                        gpu=next(reversed(visible_gpus()), None),
                        log_file=self._folder / "log.txt",
                        reports=SAMPLING_REPORTS,
                        server=self._server,
                    )
                )
            return self._child

    def _report_lost(self) -> None:
        """Report the lost answers, now that the broker is back. Otherwise their clients would wait until the deadline,
        since this sampler is alive."""
        while not self._lost.empty():
            job = self._lost.get()
            try:
                self._queue.report(job, as_dict(LostReport(id=job.id)))
            except redis.RedisError:
                self._lost.put(job)
                raise

    def _beat(self) -> None:
        """Keep this sampler registered until it stops, except while its vLLM server is away."""
        while not self.stopping.is_set():
            try:
                self._away = self._vllm is not None and not self._vllm.is_alive()
                if self._jobs or not self._away:
                    self._queue.beat()
                    self._report_lost()
                else:
                    self._queue.deregister()
            except Exception as error:  # of any kind: if this thread ended, a healthy sampler would count as gone
                log.warning("heartbeat_failed", error=type(error).__name__)
            self.stopping.wait(BEAT_S)
        try:
            self._queue.deregister()
        except redis.RedisError as error:
            log.warning("heartbeat_failed", error=type(error).__name__)
