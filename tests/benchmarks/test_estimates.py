"""What the table of predicted against actual is made of."""

from api.estimate.stored import Observation
from benchmarks.estimates import FITTED, HELD_OUT, Case, Measured, table


def measured(case: Case, flops: float, training_s: list[float]) -> Measured:
    """On a worker of 1 GFLOP a second, where these are its training's seconds in each round."""
    spent = [
        Observation(precision="float32", flops=flops, passes=1.0, training_s=each, rest_s=1.0, parameters=1000)
        for each in training_s
    ]
    return Measured(case, 1000, 110 << 20, [90 << 20, 100 << 20, 300 << 20], spent)


def test_enough_shapes_are_held_out_and_none_of_them_was_fitted_on() -> None:
    assert len(set(HELD_OUT)) >= 10
    assert not set(HELD_OUT) & set(FITTED)


def test_a_held_out_job_is_told_by_medians_from_fitted_jobs_alone() -> None:
    fitted = [measured(case, (index + 1) * 1e10, [10.0 * (index + 1)] * 3) for index, case in enumerate(FITTED[:4])]
    held_out = [measured(HELD_OUT[0], 2e10, [20.0, 19.0, 900.0]), measured(HELD_OUT[1], 2e10, [1e4] * 3)]
    lines = list(table([*fitted, *held_out]))
    (row,) = [line for line in lines if str(HELD_OUT[0]) in line and "full" not in line]
    assert "| no | 110 MiB | 100 MiB | +10% |" in row
    assert row.endswith(("| 21.0 s (20.0, 901.0) | -0% |", "| 21.0 s (20.0, 901.0) | +0% |"))
    assert lines[-2:] == [
        "fitted: memory 4 of 4 within 15 %, time 4 of 4 within 25 %",
        "held out: memory 2 of 2 within 15 %, time 1 of 2 within 25 %",
    ]
