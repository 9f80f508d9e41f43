"""The limit on the processor time of one piece of work."""

import time

import pytest

from worker.rows.limits import TooSlow, time_limit


def test_work_that_takes_too_much_processor_time_ends() -> None:
    def busy() -> None:
        while True:
            pass

    with pytest.raises(TooSlow), time_limit(0.05):
        busy()


def test_time_that_other_work_takes_does_not_count() -> None:
    with time_limit(0.2):
        time.sleep(0.4)
