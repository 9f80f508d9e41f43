"""The metrics of a job's steps: all of them, or a selection of at most a given number of steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from api.context import Caller, Context
from api.records import charted_steps, events
from api.services import jobs
from api.spec.fields import JsonObject


@dataclass(frozen=True)
class Selection:
    """The steps of a job whose metrics are listed."""

    numbers: Sequence[int]
    """The sequence numbers of the events with their metrics, sorted by step."""
    total: int
    """The number of all steps of the job."""

    def batches(self) -> Iterator[Sequence[int]]:
        """Yield the numbers in batches for `read`."""
        return events.batches_of(self.numbers)


def select_steps(context: Context, caller: Caller, job_id: str, max_points: int | None) -> Selection:
    """Select all steps of the job, or at most `max_points` of its charted steps. Raise NoSuchJob.

    Of all steps, memory holds only the numbers, eight bytes for each.
    """
    jobs.require(context, caller, job_id)
    with context.database.read() as session:
        if max_points is None:
            numbers = events.newest_metrics(session, job_id)
            return Selection(numbers, len(numbers))
        numbers, total = charted_steps.of(session, job_id)
        return Selection(charted_steps.choose(session, numbers, max_points), total)


def read(context: Context, numbers: Sequence[int]) -> Sequence[JsonObject]:
    """Return the metrics of one batch of steps. Those that were deleted in the meantime are missing."""
    with context.database.read() as session:
        return events.metrics_at(session, numbers)
