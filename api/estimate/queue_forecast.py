"""The order in which waiting jobs start, and when: a simulation of the claims that workers will make.

It follows the rules of api.records.job_queue: the next job comes from the project that has spent least; within a
project, the job with the highest priority comes first, then the oldest. Every time is a range, whose end is infinite
(unknown) after a job of unknown length.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

SAFE = (0.7, 1.6)
"""A predicted time multiplied by these factors gives the range that probably holds the actual time. Predictions from
measured speed are mostly within 25 %."""
GUESSED = (0.3, 4.0)
"""The same factors for predictions on a worker without measured speed."""
UNKNOWN_S = 600.0
"""Assumed duration, in seconds, of a job whose duration is not predicted. It affects only the order of later starts."""


@dataclass(frozen=True)
class Span:
    """A time or a duration in seconds, with the range that probably holds it."""

    earliest: float
    expected: float
    latest: float

    @classmethod
    def at(cls, time: float) -> Self:
        return cls(time, time, time)

    @classmethod
    def duration(cls, seconds: float | None, factors: tuple[float, float]) -> Self:
        """Return the range of a predicted duration. `seconds`: None if the duration is unknown."""
        if seconds is None:
            return cls(0.0, UNKNOWN_S, math.inf)
        return cls(factors[0] * seconds, seconds, factors[1] * seconds)

    def __add__(self, other: "Span") -> "Span":
        return Span(self.earliest + other.earliest, self.expected + other.expected, self.latest + other.latest)


@dataclass(frozen=True)
class Task:
    """A job that waits for a slot."""

    id: str
    project: str
    created_at: float
    priority: int = 0
    needs_gpu: bool = False
    cost: float = 1.0
    """The amount that the task adds to its project's `spent` (see `plan`) when it starts: the job's work if the task is
    a training, 1 if it is a preparation. The project that has spent least comes first."""
    duration: Span = field(default_factory=lambda: Span.duration(None, SAFE))


@dataclass(frozen=True)
class Planned:
    position: int
    """Place in the order of starts, from 1."""
    start: Span
    finish: Span


@dataclass
class _Project:
    """A project with its waiting tasks. `with_gpu` and `without` are the tasks that need a GPU and those that do not,
    with the next task at the end. `ages` has all tasks, with the oldest at the end."""

    name: str
    turn: int
    with_gpu: list[Task] = field(default_factory=list)
    without: list[Task] = field(default_factory=list)
    ages: list[Task] = field(default_factory=list)

    def head(self, gpu: bool) -> Task | None:
        """Return the project's next task that fits a slot. `gpu`: whether the slot has a GPU."""
        heads = [queue[-1] for queue in ((self.with_gpu, self.without) if gpu else (self.without,)) if queue]
        return min(heads, key=_within_project, default=None)

    def take(self, task: Task) -> None:
        (self.with_gpu if task.needs_gpu else self.without).pop()

    def oldest(self, started: Mapping[str, object]) -> float:
        while self.ages and self.ages[-1].id in started:
            self.ages.pop()
        return self.ages[-1].created_at if self.ages else math.inf


def plan(
    tasks: Sequence[Task],
    slots: Sequence[tuple[Span, bool]],
    spent: Mapping[str, float],
    turns: Mapping[str, int] | None = None,
) -> dict[str, Planned]:
    """Return when each task starts and ends, by its id. Tasks that no slot fits are left out.

    `slots`: when each slot is free, and whether it has a GPU. `spent`: what each project has used; the project that has
    used least comes first. `turns`: number of each project's last turn, which decides among projects that have used the
    same; None if turns do not count.
    """
    used = {**spent}
    projects = _by_project(tasks, turns or {})
    free = [(span.expected, number, span, gpu) for number, (span, gpu) in enumerate(slots)]
    heapq.heapify(free)
    planned: dict[str, Planned] = {}
    turn = max((turns or {}).values(), default=0)
    while free and len(planned) < len(tasks):
        _, number, span, gpu = heapq.heappop(free)
        heads = [(project, task) for project in projects if (task := project.head(gpu)) is not None]
        if not heads:
            continue  # nothing left fits this slot
        project, task = min(
            heads,
            key=lambda head: (
                used.get(head[0].name, 0.0),
                head[0].turn,
                head[0].oldest(planned),
                head[0].name,
            ),
        )
        project.take(task)
        used[project.name] = used.get(project.name, 0.0) + task.cost
        if turns is not None:
            project.turn = turn = turn + 1
        finish = span + task.duration
        planned[task.id] = Planned(len(planned) + 1, span, finish)
        heapq.heappush(free, (finish.expected, number, finish, gpu))
    return planned


def _by_project(tasks: Sequence[Task], turns: Mapping[str, int]) -> list[_Project]:
    projects: dict[str, _Project] = {}
    for task in sorted(tasks, key=_within_project, reverse=True):
        project = projects.setdefault(task.project, _Project(task.project, turns.get(task.project, 0)))
        (project.with_gpu if task.needs_gpu else project.without).append(task)
    for task in sorted(tasks, key=lambda task: task.created_at, reverse=True):
        projects[task.project].ages.append(task)
    return list(projects.values())


def _within_project(task: Task) -> tuple[int, float, str]:
    return (-task.priority, task.created_at, task.id)
