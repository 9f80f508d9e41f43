"""The order and the times that are predicted for waiting jobs."""

import math

from api.estimate.queue_forecast import SAFE, Span, Task, plan

IDLE = (Span.at(100.0), False)
GPU = (Span.at(100.0), True)


def task(name: str, project: str = "a", *, s: float | None = 10.0, age: float = 0.0, **values: object) -> Task:
    return Task(name, project, created_at=age, duration=Span.duration(s, SAFE), **values)  # type: ignore[arg-type]


def test_priority_then_age_decide_within_a_project() -> None:
    tasks = [task("new", age=3.0), task("old", age=1.0), task("urgent", age=9.0, priority=5)]
    assert list(plan(tasks, [IDLE], {})) == ["urgent", "old", "new"]


def test_the_project_that_has_spent_least_is_next_after_every_start() -> None:
    tasks = [task(f"a{n}", "a", age=n, cost=2.0) for n in range(3)] + [task("b", "b", age=9.0, cost=2.0)]
    assert list(plan(tasks, [IDLE], {"a": 1.0})) == ["b", "a0", "a1", "a2"]
    assert list(plan(tasks, [IDLE], {"b": 3.5})) == ["a0", "a1", "b", "a2"]


def test_projects_with_equal_work_take_turns() -> None:
    tasks = [task(f"{project}{n}", project, age=n) for project in "ab" for n in range(2)]
    assert list(plan(tasks, [IDLE], {}, turns={"a": 7})) == ["b0", "a0", "b1", "a1"]


def test_a_job_starts_when_a_slot_is_free_and_later_ranges_are_wider() -> None:
    busy = (Span(110.0, 119.0, 150.0), False)
    planned = plan([task("first"), task("second", age=1.0), task("third", age=2.0)], [IDLE, busy], {})
    assert [planned[name].position for name in ("first", "second", "third")] == [1, 2, 3]
    first, second, third = (planned[name].start for name in ("first", "second", "third"))
    assert first == Span.at(100.0)
    assert second == Span(107.0, 110.0, 116.0), "after the first job, not in the busy slot"
    assert third == busy[0]
    assert planned["second"].finish == Span(114.0, 120.0, 132.0)


def test_after_a_job_of_unknown_length_only_the_earliest_start_is_known() -> None:
    planned = plan([task("unknown", s=None), task("next", age=1.0)], [IDLE], {})
    assert (planned["next"].start.earliest, planned["next"].start.latest) == (100.0, math.inf)


def test_jobs_that_need_a_gpu_wait_for_one_and_others_pass_them() -> None:
    tasks = [task("gpu0", needs_gpu=True), task("gpu1", age=1.0, needs_gpu=True), task("any", age=2.0)]
    assert list(plan(tasks, [IDLE], {})) == ["any"], "the others fit no slot"
    planned = plan(tasks, [IDLE, GPU], {})
    assert list(planned) == ["any", "gpu0", "gpu1"]
    assert planned["gpu1"].start.expected == 110.0
