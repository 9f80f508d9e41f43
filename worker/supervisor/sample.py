"""A sampler's supervisor: takes requests out of the letterbox, fetches the models that they name, and feeds the child
that samples. The child is started with the first request, and ended when nobody has asked for long."""

import secrets
import signal
import threading
import time
from pathlib import Path

import redis
import structlog

from api.infra.sample_queue import BEAT_S, LISTEN_S, Consumer, SampleJob
from api.infra.storage import Corrupt, ObjectMissing, Storage, StorageUnavailable
from api.settings import Settings
from api.spec.catalog import technique_of
from api.spec.lifecycle import SAMPLE
from api.spec.sampling import SamplerJob
from worker.shared.gpus import visible_gpus
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
from worker.supervisor.adapter_cache import Adapters
from worker.supervisor.child import Child
from worker.supervisor.inputs import fetch_once
from worker.supervisor.node import claim_work_dir

log = structlog.get_logger(__name__)

LOOK_S = 0.5
CANCEL_S = 10.0
"""How long a child may take to notice that nobody waits any more: a long prompt is read in one go."""
BROKER_WAIT_S = 2.0


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    _, folder, _lock = claim_work_dir(settings.work, SAMPLE)
    sampler = Sampler(settings, Storage(settings.storage), folder)
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: sampler.stopping.set())
    sampler.run()


class LostChild(Exception):
    """It ended, or had to be ended, before its answer was complete."""


class Sampler:
    def __init__(self, settings: Settings, storage: Storage, folder: Path) -> None:
        self._settings, self._storage, self._folder = settings, storage, folder
        self._letters = Consumer(settings.broker_url, secrets.token_hex(8))
        self._adapters = Adapters(storage, folder / "adapters")
        self._child: Child | None = None
        self._used_at = time.monotonic()
        self.stopping = threading.Event()

    def run(self) -> None:
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        log.info("sampler_ready", name=self._letters.name)
        while not self.stopping.is_set():
            try:
                letter = self._letters.take(LISTEN_S)
            except redis.RedisError as error:
                log.warning("broker_away", error=type(error).__name__)
                self.stopping.wait(BROKER_WAIT_S)
                continue
            if letter is not None:
                self.serve(letter)
                self._used_at = time.monotonic()
            elif time.monotonic() - self._used_at > self._settings.sample_idle_s:
                self.close()
        self.close()

    def close(self) -> None:
        """End the child; the next request starts another."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def serve(self, letter: SampleJob) -> None:
        """Answer one request, whatever comes of it."""
        with structlog.contextvars.bound_contextvars(answer_id=letter.id, project_id=letter.project_id):
            try:
                self._answer(letter)
            except redis.RedisError as error:
                log.warning("answer_lost", error=type(error).__name__)
                self.close()  # it would go on for nobody

    def _answer(self, letter: SampleJob) -> None:
        began_at = time.monotonic()
        try:
            report: Report = self._follow(letter, self._command(letter))
        except redis.RedisError:
            raise  # nobody can be told
        except LostChild:
            self.close()
            report = LostReport(id=letter.id)
        except ObjectMissing:
            message = "The model was deleted while the request waited"
            report = RefusedReport(id=letter.id, message=message, param="model", code="model_not_found")
        except (Corrupt, StorageUnavailable, OSError):
            log.exception("model_not_fetched")
            message = "The model could not be fetched"
            report = FailedReport(id=letter.id, reason="storage_unavailable", message=message)
        except Exception:
            log.exception("sample_broke")
            self.close()
            report = FailedReport(id=letter.id, reason="internal_error", message=None)
        fields = as_dict(report)
        self._letters.report(letter, fields)
        log.info("sampled", outcome=fields["type"], ms=round(1000 * (time.monotonic() - began_at)))

    def _command(self, letter: SampleJob) -> SamplerJob:
        """The request with the model's folders, fetched where they are not yet."""
        model = letter.content["model"]
        storage, base, adapter = self._storage, model["base"], model["adapter"]
        cache = self._settings.work / "cache" / "base"
        whole = model["technique"] is not None and technique_of(model).whole_model
        folder = cache / base["digest"]
        if not whole:
            fetch_once(storage, base["artifacts"], folder)
        return SamplerJob(
            id=letter.id,
            base=str(folder),
            adapter=str(self._adapters.fetch(adapter["artifacts"])) if adapter is not None else None,
            technique=model["technique"],
            **letter.content["ask"],
        )

    def _follow(self, letter: SampleJob, request: SamplerJob) -> Report:
        """Hand the request over and its reports on; returns the last one, which is for the caller to hand on."""
        child = self._running()
        child.command(cmd="sample", request=request.model_dump(mode="json"))
        looked_at, cancelled_at = time.monotonic(), None
        while True:
            now = time.monotonic()
            if self.stopping.is_set() or (cancelled_at is not None and now - cancelled_at > CANCEL_S):
                raise LostChild
            if cancelled_at is None and now - looked_at > LOOK_S:
                looked_at = now
                if not self._letters.wanted(letter):
                    cancelled_at = now
                    child.command(cmd="cancel", id=letter.id)
            try:
                report = child.next_report(LOOK_S)
            except TimeoutError:
                continue
            if report is None:
                log.error("sampler_died", exit_code=child.wait(1.0), log=child.log_tail())
                raise LostChild
            if isinstance(report, LAST_REPORTS):
                return report
            if cancelled_at is None and isinstance(report, SamplerReport):
                self._letters.report(letter, as_dict(report))

    def _running(self) -> Child:
        if self._child is None or not self._child.alive:
            # On a machine with GPUs the last one: trainers take them from the first on.
            gpu = next(reversed(visible_gpus()), None)
            self._child = Child("worker.sample", gpu=gpu, log_file=self._folder / "log.txt", reports=SAMPLING_REPORTS)
        return self._child

    def _beat(self) -> None:
        """Say that we are there, as long as we are."""
        while not self.stopping.is_set():
            try:
                self._letters.beat()
            except Exception as error:  # or nobody would know that we are there
                log.warning("beat_failed", error=type(error).__name__)
            self.stopping.wait(BEAT_S)
        try:
            self._letters.deregister()
        except redis.RedisError as error:
            log.warning("beat_failed", error=type(error).__name__)
