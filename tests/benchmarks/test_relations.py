"""What the benchmark of the papers' relations keeps, and what its table says of it."""

from functools import partial
from pathlib import Path

import pytest

from benchmarks.relations import rows, table
from benchmarks.relations.results import Results
from benchmarks.relations.rewards import known_reward


def test_a_run_that_was_stopped_does_not_measure_again(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    first = Results(path).get_or_measure("lora", 0, lambda: {"loss": 1.5})

    again = Results(path).get_or_measure("lora", 0, lambda: pytest.fail("measured twice"))

    assert again == first == {"name": "lora", "seed": 0, "loss": 1.5}


def test_the_table_says_what_was_missed(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    for seed, (lora, full) in enumerate(((1.01, 1.0), (1.05, 1.0), (1.06, 1.0))):
        results.get_or_measure("lora", seed, partial(_figures, lora))
        results.get_or_measure("full", seed, partial(_figures, full))
    document = tmp_path / "benchmarks.md"
    document.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")

    table.write(results, document)

    text = document.read_text()
    assert "loss above full's, % | +5.0 (+1.0 to +6.0) | ≤ 2 | **missed**, 1 of 3 |" in text
    assert "old" not in text
    assert text.endswith("after\n")


def test_what_was_not_measured_anew_stays_in_the_table(tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    kept = "| GRPO: grader's score raised by | 0.035 | ≥ 0 | 3 of 3 |"
    document.write_text(f"{table.BEGIN}\n\n{table.HEADER}{kept}\n\n{table.END}\n")
    results = Results(tmp_path / "results.jsonl")
    results.get_or_measure("reward model", 0, lambda: {"accuracy": 0.95})

    table.write(results, document)

    text = document.read_text()
    assert kept in text
    assert "held-out pairs right | 95.0 | ≥ 90 | 1 of 1 |" in text
    assert "PPO: reward model's score raised by | not measured | ≥ 0 | |" in text


def _figures(loss: float) -> dict[str, float]:
    return {"loss": loss, "accuracy": 0.5, "trained": 1, "parameters": 2, "published_bytes": 3, "peak_bytes": 4}


@pytest.mark.parametrize("task", [rows.classified, rows.explained, rows.cards, rows.questions])
def test_no_row_is_in_two_parts(task: object) -> None:
    parts = task(1)  # type: ignore[operator]

    everything = [str(row) for part in parts.values() for row in part]

    assert len(set(everything)) == len(everything)


def test_the_known_reward_is_the_share_of_plain_words() -> None:
    assert known_reward("It returns a list, sorted.") == 1.0
    assert known_reward("`os.walk` yields names") == pytest.approx(2 / 3)
    assert known_reward("") == 0.0
