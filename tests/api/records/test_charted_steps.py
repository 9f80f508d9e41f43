from itertools import pairwise

import pytest

from api.records import Database, charted_steps, events
from tests.factories import a_job, a_project


def test_steps_of_a_long_job_are_thinned_as_they_are_added(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charted_steps, "KEPT", 32)
    project = a_project(database)
    long, short = a_job(database, project), a_job(database, project)
    with database.write() as session:
        for step in range(1, 201):
            metrics = {"step": step, "train_loss": 9.0 if step == 70 else 1 / step, "valid_loss": abs(step - 40)}
            charted_steps.add(session, long, f"Step {step}", metrics)
        charted_steps.add(session, short, "Step 1", {"step": 1, "train_loss": 1.0})
        numbers, total = charted_steps.of(session, long)
        points = events.metrics_at(session, numbers)
        assert len(charted_steps.of(session, short)[0]) == 1
    steps = [point["step"] for point in points]
    assert total == 200
    assert len(steps) <= 64
    assert {1, 40, 70, *range(193, 201)} <= set(steps)
    assert max(later - earlier for earlier, later in pairwise(steps)) <= 2 * 32


def test_the_many_steps_of_an_older_release_are_thinned_some_at_a_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charted_steps, "AT_ONCE", 96)
    job_id = a_job(database, a_project(database))
    with database.write() as session:
        for step in range(1, 320):
            charted_steps.add(session, job_id, f"Step {step}", {"step": step, "train_loss": abs(step - 40)})
        monkeypatch.setattr(charted_steps, "KEPT", 32)
        counts = []
        for step in range(320, 481, 32):
            charted_steps.add(session, job_id, f"Step {step}", {"step": step, "train_loss": 1.0})
            counts.append(len(charted_steps.of(session, job_id)[0]))
        points = events.metrics_at(session, charted_steps.of(session, job_id)[0])
    assert counts[0] >= 320 - 96
    assert counts[-1] <= 64
    assert {1, 40, 480} <= {point["step"] for point in points}


def test_step_that_is_added_again_replaces_the_earlier_one(database: Database) -> None:
    job_id = a_job(database, a_project(database))
    with database.write() as session:
        for loss in (3.0, 2.0):
            charted_steps.add(session, job_id, "Step 1", {"step": 1, "train_loss": loss})
        numbers, total = charted_steps.of(session, job_id)
        assert [point["train_loss"] for point in events.metrics_at(session, numbers)] == [2.0]
    assert total == 1
