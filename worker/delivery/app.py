"""A deliverer's threads: webhooks, metrics for each tracker, the hub, and corrections after clock steps. Run by
`attune worker --stage deliver`."""

import sys
import threading

import structlog

from api.context import Context
from api.infra.beats import ProcessReport, reporting
from api.infra.tracker_registry import MissingLibrary, require_libraries
from api.settings import Settings
from api.spec.lifecycle import DELIVER
from worker.delivery.clock_steps import ClockStepCorrector
from worker.delivery.deliverer import Deliverer
from worker.delivery.hub import HubPusher
from worker.delivery.metrics import MetricsExporter
from worker.delivery.trackers import open_trackers
from worker.delivery.webhooks import WebhookSender

GRACE_S = 5
"""Seconds that a shutdown waits for each thread's delivery in progress. The next deliverer sends what is left."""

log = structlog.get_logger(__name__)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    try:
        require_libraries(settings)
    except MissingLibrary as error:
        sys.exit(str(error))
    deliverer = Deliverer.open(Context.open(settings))
    deliverer.stop_on_signals()
    senders = _senders(deliverer)
    targets = {name: sender.run for name, sender in senders.items()} | {
        "clock-steps": ClockStepCorrector(deliverer).run
    }
    threads = [threading.Thread(target=run, name=name, daemon=True) for name, run in targets.items()]
    for thread in threads:
        thread.start()
    log.info("deliverer_ready", owner=deliverer.owner, senders=list(senders))
    report = ProcessReport(owner=deliverer.owner, stage=DELIVER, slots=len(senders), answering=None)
    with reporting(settings.broker_url, lambda: report):
        deliverer.stopping.wait()
        for thread in threads:
            thread.join(GRACE_S)


def _senders(deliverer: Deliverer) -> dict[str, WebhookSender | MetricsExporter | HubPusher]:
    settings = deliverer.context.settings
    senders: dict[str, WebhookSender | MetricsExporter | HubPusher] = {"webhooks": WebhookSender(deliverer)}
    for name, tracker in open_trackers(settings).items():
        senders[f"metrics-{name}"] = MetricsExporter(deliverer, name, tracker)
    if settings.pushes:
        senders["hub"] = HubPusher(deliverer)
    return senders
