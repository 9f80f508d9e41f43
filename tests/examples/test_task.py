"""The demo's task: rows that anyone can make again, and points that mean what they say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from examples.curve import HEIGHT, draw
from examples.make_rows import ROWS, points, split_rows

CARD = {"module": "os", "name": "walk", "first_word": "directory", "required": ["top"], "optional": ["topdown"]}


def test_no_function_is_both_trained_on_and_asked_about() -> None:
    parts = split_rows(seed=0)
    assert {part: len(rows) for part, rows in parts.items()} == ROWS
    questions = [question for rows in parts.values() for question, _ in rows]
    assert len(set(questions)) == len(questions)


def test_a_seed_gives_the_same_rows_in_every_process(tmp_path: Path) -> None:
    for folder, hash_seed in (("a", "1"), ("b", "2")):
        subprocess.run(
            [sys.executable, "examples/make_rows.py", tmp_path / folder, "--seed", "7"],
            cwd=Path(__file__).parents[2],
            env={"PYTHONHASHSEED": hash_seed},
            stdout=subprocess.DEVNULL,
            check=True,
        )
    for part in ROWS:
        name = f"{part}.jsonl"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("answer", "earned"),
    [
        (json.dumps(CARD), 100),
        (f"Here it is:\n```json\n{json.dumps(CARD)}\n```", 100),
        (json.dumps({**CARD, "optional": []}), 80),
        (json.dumps({"name": "walk"}), 20),
        ("The os.walk function walks.", 0),
        ("{not json}", 0),
        ("[1, 2]", 0),
    ],
)
def test_an_answer_earns_twenty_points_for_each_right_field(answer: str, earned: float) -> None:
    assert points(answer, CARD) == pytest.approx(earned)


@pytest.mark.parametrize("losses", [[1.0], [0.5, 0.5], [1 / n for n in range(1, 500)], [0.0, 1e9]])
def test_any_curve_fits_the_terminal(losses: list[float]) -> None:
    lines = draw(losses).splitlines()
    assert len(lines) == HEIGHT + 1
    assert max(map(len, lines)) <= 100
