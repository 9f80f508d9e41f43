"""A deliverer's threads: courier, a recorder for each tracker, pusher. Run by `attune worker --stage deliver`."""

import sys
import threading

import structlog

from api.context import Context
from api.infra.trackers import MissingLibrary, require_libraries
from api.settings import Settings
from worker.delivery.deliverer import Deliverer
from worker.delivery.hub import HubPusher
from worker.delivery.metrics import MetricsExporter
from worker.delivery.trackers import open_trackers
from worker.delivery.webhooks import WebhookSender

GRACE_S = 5
"""How long a deliverer that stops waits for whom it speaks to. What it did not tell, the next one does."""

log = structlog.get_logger(__name__)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    try:
        require_libraries(settings)
    except MissingLibrary as error:
        sys.exit(str(error))
    deliverer = Deliverer.open(Context.open(settings))
    deliverer.stop_on_signals()
    threads = [threading.Thread(target=each.run, name=name, daemon=True) for name, each in _duties(deliverer).items()]
    for thread in threads:
        thread.start()
    log.info("deliverer_ready", owner=deliverer.owner, duties=[thread.name for thread in threads])
    deliverer.stopping.wait()
    for thread in threads:
        thread.join(GRACE_S)


def _duties(deliverer: Deliverer) -> dict[str, WebhookSender | MetricsExporter | HubPusher]:
    settings = deliverer.context.settings
    duties: dict[str, WebhookSender | MetricsExporter | HubPusher] = {"courier": WebhookSender(deliverer)}
    for name, tracker in open_trackers(settings).items():
        duties[f"recorder-{name}"] = MetricsExporter(deliverer, name, tracker)
    if settings.pushes:
        duties["pusher"] = HubPusher(deliverer)
    return duties
