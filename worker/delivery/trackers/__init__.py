"""Trackers: one file for each service that metrics are sent to, all with the interface in base.py.

A deliverer sends the metrics, because a trainer knows no key. Each tracker has a thread of its own
(worker/delivery/metrics.py), so that a slow or unavailable one delays nothing else.
"""

import os
from importlib import import_module

from api.infra.tracker_registry import TITLES, configured
from api.settings import Settings
from worker.delivery.trackers.base import Tracker

_ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the deliverer retries with its own back-off
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "WANDB_ERROR_REPORTING": "false",
}
"""Environment variables that trackers' libraries read while they are imported. An operator's own values are kept."""


def open_trackers(settings: Settings) -> dict[str, Tracker]:
    """Return the configured trackers. Only their libraries are imported, because each is an optional extra."""
    names = configured(settings)
    if names:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    trackers: dict[str, Tracker] = {}
    for name in names:
        assert name in TITLES, name
        trackers[name] = import_module(f"worker.delivery.trackers.{name}").tracker(settings)
    return trackers
