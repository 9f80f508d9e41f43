"""From work to seconds: what a worker was seen to do, fitted to two numbers; before that, a guess by its kind."""

from collections.abc import Sequence
from dataclasses import dataclass

from api.estimate.stored import Observation, Observations
from api.estimate.work import ComputeCost

KEPT = 32


@dataclass(frozen=True)
class Speed:
    flops_per_s: float
    pass_s: float
    """Of a micro-batch through a layer, however small it is."""
    start_s: float
    start_per_parameter_s: float
    measured: bool

    def training_s(self, work: ComputeCost) -> float:
        return work.flops / self.flops_per_s + work.passes * self.pass_s

    def rest_s(self, parameters: int) -> float:
        return self.start_s + self.start_per_parameter_s * parameters


CPU = Speed(3e10, 2e-3, 8.0, 2e-8, measured=False)
"""A few cores."""
GPU = Speed(1.5e14, 2e-4, 15.0, 1e-8, measured=False)
"""A data-centre card in bfloat16, at a third of its peak."""


def speed_of(observed: Observations | None, *, gpu: bool, precision: str) -> Speed:
    """By the jobs of that precision, if there were any."""
    guess = GPU if gpu else CPU
    seen = [job for job in (observed["jobs"] if observed else []) if job["precision"] == precision]
    if not seen:
        return guess
    per_flop, per_pass = _fit(
        [(o["flops"], o["passes"], o["training_s"]) for o in seen], (1 / guess.flops_per_s, guess.pass_s)
    )
    each, start = _fit(
        [(float(o["parameters"]), 1.0, o["rest_s"]) for o in seen], (guess.start_per_parameter_s, guess.start_s)
    )
    return Speed(1 / max(per_flop, 1e-18), per_pass, start, each, measured=True)


def with_job(observed: Observations | None, job: Observation) -> Observations:
    """Return the worker's observations with this job added. The last KEPT jobs are kept."""
    return {"jobs": [*(observed["jobs"] if observed else []), job][-KEPT:]}


def _fit(seen: Sequence[tuple[float, float, float]], guess: tuple[float, float]) -> tuple[float, float]:
    """a, b ≥ 0 of a x + b y = s, with the least squares of the relative errors. The guess counts as a tenth of a job
    in proportion, so that one job alone, or many alike, still say how the two share what was seen."""
    scale = sum(s for _, _, s in seen) / max(sum(guess[0] * x + guess[1] * y for x, y, _ in seen), 1e-12)
    a0, b0 = guess[0] * scale, guess[1] * scale
    rows = [(x / s, y / s, 1.0, 1.0) for x, y, s in seen if s > 0]
    x0, y0, s0 = (sum(column) / len(seen) for column in zip(*seen, strict=True))
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
