"""The seconds that work takes: two rates fitted to a worker's finished jobs or, until the worker has finished one,
guessed from its device."""

from collections.abc import Sequence
from dataclasses import dataclass

from api.estimate.stored import Observation, Observations
from api.estimate.work import ComputeCost

MAX_JOBS = 32
"""Number of a worker's latest jobs whose measurements are kept."""


@dataclass(frozen=True)
class Speed:
    flops_per_s: float
    pass_s: float
    """Seconds that each pass of a micro-batch through one layer takes, whatever its size, in addition to its
    operations."""
    start_s: float
    start_per_parameter_s: float
    measured: bool

    def training_s(self, work: ComputeCost) -> float:
        return work.flops / self.flops_per_s + work.passes * self.pass_s

    def rest_s(self, parameters: int) -> float:
        return self.start_s + self.start_per_parameter_s * parameters


CPU = Speed(8e10, 7.5e-4, 3.0, 7.5e-9, measured=False)
"""Guess for a CPU with a few cores, from the jobs in docs/benchmarks.md ("Predicted against actual")."""
GPU = Speed(1.5e14, 2e-4, 15.0, 1e-8, measured=False)
"""Guess for a data-center GPU in bfloat16, at a third of its peak."""


def speed_of(observed: Observations | None, *, gpu: bool, precision: str) -> Speed:
    """Return the speed fitted to the jobs of this precision, or the guess if there are none."""
    guess = GPU if gpu else CPU
    jobs = [job for job in (observed["jobs"] if observed else []) if job["precision"] == precision]
    if not jobs:
        return guess
    per_flop, per_pass = _fit(
        [(o["flops"], o["passes"], o["training_s"]) for o in jobs], (1 / guess.flops_per_s, guess.pass_s)
    )
    each, start = _fit(
        [(float(o["parameters"]), 1.0, o["rest_s"]) for o in jobs], (guess.start_per_parameter_s, guess.start_s)
    )
    return Speed(1 / max(per_flop, 1e-18), per_pass, start, each, measured=True)


def with_job(observed: Observations | None, job: Observation) -> Observations:
    """Return a worker's measurements with those of one more job."""
    return {"jobs": [*(observed["jobs"] if observed else []), job][-MAX_JOBS:]}


def _fit(jobs: Sequence[tuple[float, float, float]], guess: tuple[float, float]) -> tuple[float, float]:
    """Fit a x + b y = s to the jobs' (x, y, s), with a, b ≥ 0, by least squares of the relative errors. Return (a, b).

    The guess, scaled to the same total, counts as a tenth of a job. It decides the ratio of a and b if the jobs do not,
    because there is only one or they are all similar.
    """
    scale = sum(s for _, _, s in jobs) / max(sum(guess[0] * x + guess[1] * y for x, y, _ in jobs), 1e-12)
    a0, b0 = guess[0] * scale, guess[1] * scale
    rows = [(x / s, y / s, 1.0, 1.0) for x, y, s in jobs if s > 0]
    x0, y0, s0 = (sum(column) / len(jobs) for column in zip(*jobs, strict=True))
    rows += [(x0 / s0, 0.0, a0 * x0 / s0, 0.1), (0.0, y0 / s0, b0 * y0 / s0, 0.1)] if s0 > 0 else []
    xx = sum(w * x * x for x, _, _, w in rows)
    yy = sum(w * y * y for _, y, _, w in rows)
    xy = sum(w * x * y for x, y, _, w in rows)
    xs = sum(w * x * s for x, _, s, w in rows)
    ys = sum(w * y * s for _, y, s, w in rows)
    determinant = xx * yy - xy * xy
    if determinant <= 1e-12 * xx * yy:
        return a0, b0
    a, b = (yy * xs - xy * ys) / determinant, (xx * ys - xy * xs) / determinant
    if a < 0:
        return 0.0, ys / yy
    if b < 0:
        return xs / xx, 0.0
    return a, b
