"""The CSV table of a job's metrics for download: OpenAI's columns, then rewards and accuracies under their own
names."""

import csv
from collections.abc import Callable, Iterable
from typing import IO

from worker.shared.reports import Metrics

RESULT_COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_accuracy",
}
"""OpenAI's columns, each with the metric that fills it."""
OWN_COLUMNS = ("train_reward", "valid_reward", "valid_accuracy", "train_rewards_accuracy", "valid_rewards_accuracy")
"""Further columns, for methods that have these metrics. A column's name is the metric's name."""
ACCURACIES = ("mean_token_accuracy", "accuracy", "rewards_accuracy")
"""Names that methods give to an accuracy: of tokens, of labels, or of preferences."""


def write_results(file: IO[str], read: Callable[[], Iterable[Metrics]]) -> None:
    """Write the table, with a row for each step. Cells are numbers, or empty if the step lacks the metric.

    `read` returns the metrics of all steps. It is called twice, first to find the columns: a job may have too many
    steps to keep all their metrics in memory.
    """
    names: set[str] = set()
    for row in read():
        names.update(row)
    columns = RESULT_COLUMNS | {name: name for name in OWN_COLUMNS if name in names}
    table = csv.writer(file, lineterminator="\n")
    table.writerow(columns)
    for row in read():
        values = (_metric(row, metric) for metric in columns.values())
        table.writerow(["" if value is None else value for value in values])


def _metric(row: Metrics, name: str) -> float | None:
    part, _, kind = name.partition("_")
    names = [f"{part}_{accuracy}" for accuracy in ACCURACIES] if kind == "accuracy" else [name]
    value: float | None = next((row[name] for name in names if name in row), None)
    return value
