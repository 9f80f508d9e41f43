"""Weights & Biases: a run for each integration that a job names, with the job's id as its own.

Online, the server tells a run that is resumed which steps it has. Offline there is nobody to ask, and nobody who looks
either: the run is written as a whole once the job has ended, so that its folder holds every step once.
"""

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

    def open(self, about: RunInfo) -> Run:
        if self._settings.wandb_mode == "offline":
            return Offline(self, about)
        return Online(self, about)

    def begin(self, about: RunInfo) -> Any:
        """Of wandb's kind. The run's own thread and process are wandb's."""
        self._folder.mkdir(parents=True, exist_ok=True)
        options = about.options
        try:
            return self._init(about, options)
        except (MailboxClosedError, HandleAbandonedError, ConnectionError):
            _forget_dead_process()
            raise

    def _init(self, about: RunInfo, options: dict[str, Any]) -> Any:
        return wandb.init(
            id=run_id(about),
            project=options["project"],
            entity=options["entity"],
            name=options["name"] or about.job_id,
            tags=options["tags"],
            config={"fine_tuned_model": about.model, "base_model": about.base_model, **about.config},
            dir=str(self._folder),
            resume="allow",
            reinit="create_new",
            settings=self._as_wandb_has_them(),
        )

    def _as_wandb_has_them(self) -> wandb.Settings:
        """The key is handed over here, not through the environment or a file; and of this machine nothing is told."""
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

    def forget(self, about: RunInfo) -> None:
        """What lies on this disk of the run, from whoever died while writing it."""
        for left in (self._folder / "wandb").glob(f"*run-*-{run_id(about)}"):
            shutil.rmtree(left)


@dataclass
class Offline:
    tracker: Tracker
    about: RunInfo
    step: int = 0
    url: str | None = None
    _points: list[MetricPoint] = field(default_factory=list)

    def add(self, points: Sequence[MetricPoint]) -> None:
        self._points += points

    def close(self, status: JobStatus | None) -> None:
        if status is None:
            return
        self.tracker.forget(self.about)
        run = self.tracker.begin(self.about)
        _log(run, self._points)
        run.finish(exit_code=_exit_code(status))


class Online:
    def __init__(self, tracker: Tracker, about: RunInfo) -> None:
        self._tracker, self._about = tracker, about
        self._run = tracker.begin(about)
        self.step: int = self._run.starting_step - 1 if self._run.resumed else 0
        self.url: str | None = self._run.url

    def add(self, points: Sequence[MetricPoint]) -> None:
        _log(self._run, points)

    def close(self, status: JobStatus | None) -> None:
        """Waits until all is uploaded. Raises TimeoutError."""
        self._run.finish(exit_code=0 if status is None else _exit_code(status))
        self._tracker.forget(self._about)  # the server has it


def tracker(settings: Settings) -> Tracker:
    return Tracker(settings)


def run_id(about: RunInfo) -> str:
    return about.job_id if about.number == 0 else f"{about.job_id}-{about.number}"


def offline_folder(settings: Settings, job_id: str) -> Path:
    """Where the offline run of a job is, for `wandb sync`."""
    return next((settings.wandb_folder / "wandb").glob(f"offline-run-*-{job_id}"))


def _log(run: Any, points: Sequence[MetricPoint]) -> None:
    for point in points:
        run.log(point.values | {"_timestamp": point.at}, step=point.step, commit=True)


def _forget_dead_process() -> None:
    """wandb's process serves all runs of ours, and is not started again by itself should it have died."""
    with contextlib.suppress(ConnectionError):
        wandb.teardown()


def _exit_code(status: JobStatus) -> int:
    return 0 if status is JobStatus.SUCCEEDED else 1
