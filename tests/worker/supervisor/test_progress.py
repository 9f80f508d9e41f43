"""What a trainer's reports become: events that people read."""

import time
from pathlib import Path
from typing import Any

import pytest

from api.context import Context
from api.records import events, job_queue, jobs
from api.records.events import Event
from api.records.job_queue import Attempt
from api.spec.lifecycle import JobStatus, Stage
from tests.factories import a_job, a_project, the_job
from tests.worker.supervisor.conftest import attempt_at
from worker.shared.reports import MetricsReport, PhaseReport, RolloutSample, SamplesReport
from worker.supervisor.attempt import AttemptContext
from worker.supervisor.node import Node
from worker.supervisor.progress import Progress
from worker.supervisor.remaining import Remaining

METRICS = {"total_steps": 6, "train_loss": 0.5, "tokens": 3}


def attempt_of(context: Context) -> AttemptContext:
    """An attempt at a new job of six steps."""
    job_id = a_job(context.database, a_project(context.database), resolved={"total_steps": 6})
    with context.database.write() as session:
        claim = job_queue.claim(session, Stage.TRAIN, owner="w", lease_s=60, gpus=0)
    assert claim is not None
    return attempt_at(Node.open(context, Stage.PREPARE), claim, the_job(context.database, job_id), Path())


def told(context: Context, *reports: MetricsReport | SamplesReport) -> list[Event]:
    """The events that these reports became, oldest first."""
    attempt = attempt_of(context)
    job_id, progress = attempt.job.id, Progress(attempt)
    for report in reports:
        progress.add(report)
    progress.flush(force=True)
    with context.database.read() as session:
        found = events.page(session, job_id, after=None, limit=100).data
    return [event for event in reversed(found) if event.message.startswith("Step")]


SAMPLE: dict[str, Any] = {"prompt": "2 + 2?", "answer": "4", "reward": 0.8249}


def samples(step: int, **sample: Any) -> SamplesReport:
    whole = RolloutSample(**(SAMPLE | sample))
    return SamplesReport(step=step, samples=[whole, whole])


def test_samples_are_a_message_of_one_line_with_all_of_them_in_its_data(context: Context) -> None:
    long = {"prompt": "x" * 200 + "\nEnd?", "answer": "4\n\x1b[2Jfour"}
    (event,) = told(context, samples(3, **long))
    assert event.message == f"Step 3 sample (reward 0.82): …{'x' * 75} End? → 4 �[2Jfour"
    assert (event.type, event.level) == ("message", "info")
    assert event.data == {"step": 3, "samples": [SAMPLE | long, SAMPLE | long]}


def test_samples_of_a_step_that_was_told_already_are_not_told_again(context: Context) -> None:
    heard = told(context, MetricsReport.of(METRICS | {"step": 3}), samples(3), samples(4))
    assert [event.message for event in heard] == [
        "Step 3/6: training loss=0.50",
        "Step 4 sample (reward 0.82): 2 + 2? → 4",
    ]


def test_steps_that_an_attempt_trains_again_count_once(context: Context) -> None:
    """An attempt that resumes from the state of step 2 trains step 3 again, whose tokens are in the usage already."""
    job_id = a_job(context.database, a_project(context.database))
    counted = []
    for steps in ([1, 2, 3], [3, 4]):
        with context.database.write() as session:
            claim = job_queue.claim(session, Stage.TRAIN, owner="w", lease_s=60, gpus=0)
        assert claim is not None
        node, job = Node.open(context, Stage.PREPARE), the_job(context.database, job_id)
        progress = Progress(attempt_at(node, claim, job, Path()))
        for step in steps:
            progress.add(MetricsReport.of(METRICS | {"step": step}))
        progress.flush(force=True)
        progress.flush(force=True)
        with context.database.write() as session:
            jobs.transition(session, job_id, JobStatus.QUEUED, message="again", fence=claim.fence)
            counted.append(session.get_one(Attempt, (job_id, claim.fence)).tokens)
    assert counted == [9, 3]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"train_reward": 0.25}, "Step 1/6: training loss=0.50, reward=0.25"),
        (
            {"train_reward": None, "valid_loss": -0.5, "valid_reward": 0.5},
            "Step 1/6: training loss=0.50, reward=not a number, validation loss=-0.50, validation reward=0.50",
        ),
        ({"train_accuracy": 1.0}, "Step 1/6: training loss=0.50"),
    ],
)
def test_a_step_tells_of_its_reward_where_it_has_one(context: Context, metrics: dict[str, Any], message: str) -> None:
    (event,) = told(context, MetricsReport.of(METRICS | {"step": 1} | metrics))
    assert (event.message, event.type) == (message, "metrics")


def test_quiet_phases_have_an_event_and_progress_names_them(context: Context) -> None:
    attempt = attempt_of(context)
    progress = Progress(attempt, predicted={"seconds": 40.0, "training_s": 30.0})  # type: ignore[arg-type]
    progress.add(PhaseReport(phase="loading"))
    progress.flush(force=True)
    job = the_job(context.database, attempt.job.id)
    assert job.progress == {"step": 0, "total_steps": 6, "phase": "loading"}
    assert job.estimated_finish is not None, "before any step, from the prediction"
    assert 35 < job.estimated_finish - time.time() <= 41
    for phase in ("training", "evaluating", "training"):
        progress.add(PhaseReport(phase=phase))
    progress.add(MetricsReport.of(METRICS | {"step": 6, "learning_rate": 1e9}))
    for phase in ("comparing", "exporting", "verifying", "storing"):
        progress.add(PhaseReport(phase=phase))
    progress.flush(force=True)
    job = the_job(context.database, attempt.job.id)
    assert job.progress == {"step": 6, "total_steps": 6, "phase": "storing", "learning_rate": 1e9}
    with context.database.read() as session:
        found = [event.message for event in events.page(session, job.id, after=None, limit=20).data]
    assert found[::-1] == [
        "Fine-tuning job started",
        "Loading the base model",
        "Step 6/6: training loss=0.50",
        "Comparing with the base model",
        "Exporting the model",
        "Checking the published files",
        "Storing the model",
    ]


def test_the_time_left_includes_the_phases_after_the_last_step() -> None:
    now = [0.0]
    remaining = Remaining(None, done=0.0, clock=lambda: now[0])
    assert remaining.seconds is None
    remaining = Remaining({"seconds": 150.0, "training_s": 100.0}, done=0.5, clock=lambda: now[0])  # type: ignore[arg-type]
    assert remaining.seconds == 100.0, "half of the steps, and loading and publishing"
    left = []
    for step in (4, 5, 6):
        now[0] += 7.0
        remaining.end_step(MetricsReport.of(METRICS | {"step": step, "tokens_per_second": 1.0}))
        left.append(remaining.seconds)
    published = 0.6 * 50.0
    compared = [6 * step_s * 0.04 / 0.96 for step_s in (3, 7, 7)]
    assert left == pytest.approx([each + published for each in (2 * 3 + compared[0], 7 + compared[1], compared[2])]), (
        "first by the step's own speed, then by the mean of all steps"
    )
    for phase, seconds in {"comparing": left[-1], "exporting": 30.0, "verifying": 17.5, "storing": 5.0}.items():
        remaining.begin(phase)
        assert remaining.seconds == seconds


def test_the_speed_of_the_first_step_replaces_a_guess_that_is_far_off() -> None:
    remaining = Remaining({"seconds": 9_050.0, "training_s": 9_000.0}, done=0.0, clock=lambda: 0.0)  # type: ignore[arg-type]
    remaining.end_step(MetricsReport.of(METRICS | {"step": 1, "tokens_per_second": 0.3}))
    assert remaining.seconds == pytest.approx(5 * 10 + 2.5 + 30), "steps of ten seconds, comparison and publication"


def test_steps_that_an_attempt_must_repeat_count_as_left(context: Context) -> None:
    """The earlier attempt was lost at step 5 of 6, with its last state at step 1."""
    attempt = attempt_of(context)
    attempt.job.progress = {"step": 5, "total_steps": 6}
    progress = Progress(attempt, predicted={"seconds": 1500.0, "training_s": 1200.0}, resumed_at=1)  # type: ignore[arg-type]

    def left_s() -> float:
        progress.flush(force=True)
        return (the_job(context.database, attempt.job.id).estimated_finish or 0.0) - time.time()

    progress.add(PhaseReport(phase="loading"))
    assert 1250 < left_s() <= 1301, "five of six steps"
    progress.add(MetricsReport.of(METRICS | {"step": 2, "tokens_per_second": 0.3}))
    assert 40 + 180 < left_s() <= 45 + 180, "four steps of ten seconds each, and what follows them"
    assert the_job(context.database, attempt.job.id).progress["step"] == 5


def test_the_first_step_is_shown_at_once(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.supervisor.progress.FLUSH_S", 1e9)
    attempt = attempt_of(context)
    progress = Progress(attempt)
    progress.add(PhaseReport(phase="loading"))
    progress.flush()
    for step in (1, 2):
        progress.add(MetricsReport.of(METRICS | {"step": step}))
        progress.flush()
    assert the_job(context.database, attempt.job.id).progress["step"] == 1, "the second waits for its turn"
