"""TensorBoard: a folder of event files for each job.

Each time a run is opened, its folder is rewritten from the database, because a file whose writer died may be truncated.
"""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar

from api.settings import Settings
from api.spec.lifecycle import JobStatus
from worker.delivery.trackers.base import MetricPoint, RunInfo


class Tracker:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, info: RunInfo) -> "EventFile":
        folder = self._folder / info.job_id
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return EventFile(folder)


class EventFile:
    """A run's event file, written in the caller's thread. tensorboardX's SummaryWriter would write in a thread of its
    own, whose errors would be lost."""

    def __init__(self, folder: Path) -> None:
        self.step = 0
        self.url = None
        self._writer = EventsWriter(str(folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"))

    def add(self, points: Sequence[MetricPoint]) -> None:
        for point in points:
            for name, value in point.values.items():
                summary = scalar(name, value)
                self._writer.write_event(Event(wall_time=point.at, step=point.step, summary=summary))
        self._writer.flush()

    def close(self, status: JobStatus | None) -> None:
        self._writer.close()


def tracker(settings: Settings) -> Tracker:
    assert settings.tensorboard_dir is not None
    return Tracker(settings.tensorboard_dir.resolve())
