"""Correction of the times of deliveries after the database's clock was set back (api/records/clock_steps.py).

Each delivery has a bound of its own, by the number of its attempts: the longest wait of a webhook is ten hours.
"""

from api.records import trackings, webhook_deliveries
from worker.delivery import hub, metrics, webhooks
from worker.delivery.deliverer import Deliverer


class ClockStepCorrector:
    def __init__(self, deliverer: Deliverer) -> None:
        self._deliverer = deliverer

    def run(self) -> None:
        self._deliverer.repeat("clock_steps", self.shorten_waits, self._deliverer.context.settings.sweep_s)

    def shorten_waits(self) -> None:
        context = self._deliverer.context
        with context.database.write() as session:
            webhook_deliveries.shorten(session, webhooks.BACK_OFF_S)
            trackings.shorten(
                session,
                idle_s=max(metrics.IDLE_S, context.settings.track_s),
                lease_s=metrics.LEASE_S,
                push_s=hub.LEASE_S,
            )
