"""Weights & Biases: a run for each integration that a job names. The run's id is the job's id, with a number from the
second integration on.

Online, the server reports which steps a resumed run has. Offline, no server knows them: the whole run is written once
the job has ended, so that its folder holds every step once.
"""

import contextlib
import json
import shutil
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from tempfile import TemporaryFile
from typing import IO

import psutil
import wandb
from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

from api.settings import Settings
from api.spec.lifecycle import JobStatus
from worker.delivery.trackers.base import MetricPoint, Run, RunInfo

INIT_TIMEOUT_S = 30
FINISH_TIMEOUT_S = 30


class Tracker:
    def __init__(self, settings: Settings) -> None:
        self._settings, self._folder = settings, settings.wandb_folder

    def open(self, info: RunInfo) -> Run:
        if self._settings.wandb_mode == "offline":
            return Offline(self, info)
        return Online(self, info)

    def begin(self, info: RunInfo) -> wandb.Run:
        """Start a run with the wandb library, which starts a thread and a process for the run."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            return self._init(info)
        except (MailboxClosedError, HandleAbandonedError, ConnectionError):
            _forget_dead_process()
            raise

    def _init(self, info: RunInfo) -> wandb.Run:
        options = info.options
        return wandb.init(
            id=run_id(info),
            project=options["project"],
            entity=options["entity"],
            name=options["name"] or info.job_id,
            tags=options["tags"],
            config={"fine_tuned_model": info.model, "base_model": info.base_model, **info.config},
            dir=str(self._folder),
            resume="allow",
            reinit="create_new",
            settings=self._wandb_settings(),
        )

    def _wandb_settings(self) -> wandb.Settings:
        """Return settings that pass the key directly, not through the environment or a file, and send nothing about
        this machine."""
        ours = self._settings
        address = {"base_url": ours.wandb_base_url} if ours.wandb_base_url else {}
        return wandb.Settings(
            mode=ours.wandb_mode,
            api_key=ours.wandb_api_key.get_secret_value() or None,
            init_timeout=INIT_TIMEOUT_S,
            finish_timeout=FINISH_TIMEOUT_S,
            finish_timeout_raises=True,
            x_graphql_retry_max=2,
            host="attune",
            console="off",
            silent=True,
            symlink=False,
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            **address,
        )

    def delete_local(self, info: RunInfo) -> None:
        """Delete the run's files on this disk, including those of deliverers that died."""
        for folder in (self._folder / "wandb").glob(f"*run-*-{run_id(info)}"):
            shutil.rmtree(folder)


@dataclass
class Offline:
    tracker: Tracker
    info: RunInfo
    step: int = 0
    url: str | None = None
    _points: IO[str] = field(default_factory=partial(TemporaryFile, "w+", encoding="utf-8"))
    """The points as JSON lines. They are not kept in memory, because a job may have a million of them."""

    def add(self, points: Sequence[MetricPoint]) -> None:
        self._points.writelines(f"{json.dumps(asdict(point))}\n" for point in points)

    def close(self, status: JobStatus | None) -> None:
        if status is None:
            self._points.close()
            return
        self.tracker.delete_local(self.info)
        run = self.tracker.begin(self.info)
        self._points.seek(0)
        _log(run, (MetricPoint(**json.loads(line)) for line in self._points))
        self._points.close()
        run.finish(exit_code=_exit_code(status))
        # `finish` returns before the library's process has written the file.
        _end_process()


def _end_process() -> None:
    """Wait until wandb's process has ended; a later run starts it anew. Raises TimeoutError after FINISH_TIMEOUT_S,
    RuntimeError if it ended with an error.

    The library waits without a limit, and leaves by SystemExit if its process failed. Either would end the deliveries.
    """
    failures: list[BaseException] = []

    def teardown() -> None:
        try:
            wandb.teardown()
        except BaseException as error:
            failures.append(error)

    children = psutil.Process().children()
    thread = threading.Thread(target=teardown, daemon=True)
    thread.start()
    thread.join(FINISH_TIMEOUT_S)
    if thread.is_alive():
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name().startswith("wandb-core"):
                    child.kill()
        raise TimeoutError("wandb's process did not end")
    if failures:
        raise RuntimeError("wandb's process ended with an error") from failures[0]


class Online:
    def __init__(self, tracker: Tracker, info: RunInfo) -> None:
        self._tracker, self._info = tracker, info
        self._run = tracker.begin(info)
        self.step: int = self._run.starting_step - 1 if self._run.resumed else 0
        self.url: str | None = self._run.url

    def add(self, points: Sequence[MetricPoint]) -> None:
        _log(self._run, points)

    def close(self, status: JobStatus | None) -> None:
        """Wait until everything is uploaded. Raises TimeoutError after FINISH_TIMEOUT_S."""
        self._run.finish(exit_code=0 if status is None else _exit_code(status))
        self._tracker.delete_local(self._info)  # the server has the whole run


def tracker(settings: Settings) -> Tracker:
    return Tracker(settings)


def run_id(info: RunInfo) -> str:
    return info.job_id if info.number == 0 else f"{info.job_id}-{info.number}"


def _log(run: wandb.Run, points: Iterable[MetricPoint]) -> None:
    for point in points:
        run.log(point.values | {"_timestamp": point.at}, step=point.step, commit=True)


def _forget_dead_process() -> None:
    """Reset the wandb library after its process has died, so that it starts a new process: it does not do so by
    itself."""
    with contextlib.suppress(ConnectionError):
        wandb.teardown()


def _exit_code(status: JobStatus) -> int:
    return 0 if status is JobStatus.SUCCEEDED else 1
