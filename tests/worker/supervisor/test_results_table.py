"""The CSV of a job: OpenAI's columns first, for clients that read them, and then the metrics under their own names."""

from worker.supervisor.results_table import results_csv


def table(**metrics: float) -> dict[str, str]:
    names, values = results_csv([{"step": 1, "train_loss": 0.5, **metrics}]).decode().splitlines()
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
