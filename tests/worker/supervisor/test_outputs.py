"""What is said of a model when it is published."""

import pytest

from api.records.jobs import Job
from worker.shared.reports import DoneReport
from worker.supervisor.outputs import best_step_message


@pytest.mark.parametrize(
    ("best", "keep", "told"), [(4, True, True), (6, True, False), (4, False, False), (None, True, False)]
)
def test_an_event_says_which_step_is_published_where_it_is_not_the_last(
    best: int | None, keep: bool, told: bool
) -> None:
    report = DoneReport(step=6, best_step=best, path="out/model", trained_tokens=1)
    message = best_step_message(Job(resolved={"keep_best": keep}), report)
    assert (message is not None) is told
    assert message is None or "step 4 of 6" in message
