"""Trackers: one small file for each place that metrics are sent to, all of the same shape (base.py).

Sent by a deliverer, never by a trainer, which knows no key; by a thread of its own for each tracker
(worker/delivery/metrics.py), so that a tracker that is slow or away holds up nothing but itself.
"""

import os
from importlib import import_module

from api.infra.trackers import TITLES, configured
from api.settings import Settings
from worker.delivery.trackers.base import Tracker

_ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # we try again ourselves, and ask for nothing meanwhile
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "WANDB_ERROR_REPORTING": "false",
}
"""What the libraries read of it while they are imported. An operator's own values stay."""


def open_trackers(settings: Settings) -> dict[str, Tracker]:
    """Those that the settings are enough for. Only their libraries are imported: each is an optional extra."""
    names = configured(settings)
    if names:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    trackers: dict[str, Tracker] = {}
    for name in names:
        assert name in TITLES, name
        trackers[name] = import_module(f"worker.delivery.trackers.{name}").tracker(settings)
    return trackers
