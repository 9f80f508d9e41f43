"""The wire between a child and its supervisor: what one version writes, the next one reads."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from api.spec.lifecycle import FailureReason
from worker.shared import reports
from worker.shared.reports import SAMPLING_REPORTS, TRAINER_REPORTS

METRICS = {"step": 2, "total_steps": 6, "tokens": 9, "train_loss": 0.5, "valid_confusion": [[1, 0], [0, 2]]}

LINES: dict[str, tuple[reports.Report, dict[str, Any]]] = {
    "phase": (reports.PhaseReport(phase="saving"), {"phase": "saving"}),
    "metrics": (reports.MetricsReport.of(METRICS), METRICS),
    "samples": (
        reports.SamplesReport(step=1, samples=[reports.RolloutSample(prompt="p", answer="a", reward=1.0)]),
        {"step": 1, "samples": [{"prompt": "p", "answer": "a", "reward": 1.0}]},
    ),
    "state": (reports.StateReport(step=3, path="out/states/3"), {"step": 3, "path": "out/states/3"}),
    "error": (
        reports.ErrorReport(reason=FailureReason.DIVERGED, message=None),
        {"reason": "diverged", "message": None},
    ),
    "progress": (reports.ProgressReport(file="train", rows=7), {"file": "train", "rows": 7}),
    "alive": (reports.AliveReport(), {}),
}


@pytest.mark.parametrize("type_", LINES)
def test_a_report_is_one_line_of_json_and_is_read_as_it_was_written(type_: str) -> None:
    report, fields = LINES[type_]
    line = reports.encode(report)
    assert line.endswith(b"\n")
    assert json.loads(line) == {"type": type_, **fields}
    assert reports.decode(line, TRAINER_REPORTS) == report


def test_the_samplers_last_report_is_another_than_the_trainers() -> None:
    line = reports.encode(reports.CompleteReport(id="cmpl-1"))
    assert json.loads(line) == {"type": "done", "id": "cmpl-1"}
    assert isinstance(reports.decode(line, SAMPLING_REPORTS), reports.CompleteReport)
    with pytest.raises(msgspec.ValidationError):
        reports.decode(line, TRAINER_REPORTS)


def test_numbers_that_json_does_not_have_become_null() -> None:
    metrics = METRICS | {"train_loss": float("nan"), "reward": np.float64("inf"), "accuracy": np.float64(0.5)}
    decoded = reports.decode(reports.encode(reports.MetricsReport.of(metrics)), TRAINER_REPORTS)
    assert isinstance(decoded, reports.MetricsReport)
    assert (decoded.train_loss, decoded.metrics["reward"], decoded.metrics["accuracy"]) == (None, None, 0.5)


def test_a_type_of_a_later_version_is_a_sign_of_life() -> None:
    assert isinstance(reports.decode(b'{"type": "later", "x": 1}', TRAINER_REPORTS), reports.UnknownReport)


@pytest.mark.parametrize("line", [b"x", b"[]", b'{"type": 1}', b'{"type": "state", "step": "3"}', b'{"step": 1}'])
def test_anything_else_is_no_report(line: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        reports.decode(line, TRAINER_REPORTS)
