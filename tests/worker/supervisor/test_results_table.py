"""The CSV of a job: OpenAI's columns first, for clients that read them, and then the metrics under their own names."""

import gc
import io
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

from worker.supervisor.results_table import write_results


def table(**metrics: float) -> dict[str, str]:
    file = io.StringIO()
    write_results(file, lambda: [{"step": 1, "train_loss": 0.5, **metrics}])
    names, values = file.getvalue().splitlines()
    return dict(zip(names.split(","), values.split(","), strict=True))


def test_a_supervised_job_has_openais_columns_alone() -> None:
    assert [*table(train_mean_token_accuracy=0.25)] == [
        "step",
        "train_loss",
        "train_accuracy",
        "valid_loss",
        "valid_mean_token_accuracy",
    ]


def test_preferences_have_one_name_here_and_in_the_metrics() -> None:
    row = table(train_rewards_accuracy=0.75, valid_rewards_accuracy=0.5)
    assert (row["train_rewards_accuracy"], row["valid_rewards_accuracy"]) == ("0.75", "0.5")
    assert (row["train_accuracy"], row["valid_mean_token_accuracy"]) == ("0.75", "0.5"), "where OpenAI's clients look"


def test_labels_have_one_name_here_and_in_the_metrics() -> None:
    row = table(train_accuracy=0.75, valid_accuracy=0.5)
    assert (row["train_accuracy"], row["valid_accuracy"]) == ("0.75", "0.5")


class Row(dict[str, float]):
    count: ClassVar = Counter[str]()

    def __init__(self, **metrics: float) -> None:
        super().__init__(metrics)
        self.count["kept"] += 1
        self.count["most"] = max(self.count["most"], self.count["kept"])

    def __del__(self) -> None:
        self.count["kept"] -= 1


def test_the_metrics_of_all_steps_are_never_in_memory_together() -> None:
    def read() -> Iterator[Row]:
        for step in range(100):
            yield Row(step=step, train_reward=step / 2)

    file = io.StringIO()
    write_results(file, read)
    lines = file.getvalue().splitlines()
    assert (lines[0].split(",")[-1], lines[-1], len(lines)) == ("train_reward", "99,,,,,49.5", 101)
    gc.collect()
    assert Row.count["most"] < 5
