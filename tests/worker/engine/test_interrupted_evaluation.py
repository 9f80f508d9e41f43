"""A pause while an evaluation waits for judges: the evaluation counts for nothing, and the resumed job repeats it."""

import hashlib
import itertools
import shutil
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
import pytest

from api.spec.graders import Question
from tests.worker import pairs
from tests.worker.recorder import Recorder, adapter, attempt_after
from worker.engine import comparison, data
from worker.engine.errors import Stopped
from worker.shared import judgements
from worker.shared.reports import StoppedReport
from worker.train import train

GRADER = {
    "type": "score_model",
    "name": "s",
    "model": "strict",
    "input": [{"role": "user", "content": "{{ item.prompt }}: {{ sample.output_text }}"}],
    "range": [-1, 1],
}
STEPS, SUBSET, ROWS = 2, 3, 8
IN_STEP = pairs.ROWS * 2  # questions: each prompt gets two answers


class Judged(Recorder):
    """The pipe to a supervisor whose judge is away after some answers. A pause follows."""

    def __init__(self, answers: float = float("inf"), *, stops: bool = True) -> None:
        super().__init__(on_report=self._judge)
        self.commanded, self.verdicts, self._left = True, SimpleQueue[dict[str, Any]](), answers
        self._stops, self._away = stops, False

    @property
    def stopping(self) -> bool:
        return self._away and self._stops

    def _judge(self, report: dict[str, Any]) -> None:
        if report["type"] != "question":
            return
        self._left -= 1
        self._away = self._left < 0
        if not self._away:
            text = report["question"]["messages"][-1]["content"]
            key = msgspec.convert(report["question"], Question).key
            value = hashlib.sha256(text.encode()).digest()[0] / 255
            verdict = {"value": value, "flag": "other_error", "message": "", "model": "strict"}
            self.verdicts.put({"cmd": "verdict", "key": key, "verdict": verdict})


def attempt(run: Path, pipe: Judged) -> Judged:
    try:
        train(run, pipe)  # type: ignore[arg-type]
    except Stopped as stopped:
        pipe.report(StoppedReport(step=stopped.step))
    return pipe


@pytest.fixture
def make(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(data, "EVALUATED_ROWS", SUBSET)
    monkeypatch.setattr(judgements, "LISTEN_S", 0.01)
    names = itertools.count()

    def make() -> Path:
        run = tmp_path / f"run{next(names)}"
        options = {"grader": GRADER, "group_size": 2, "max_tokens": 4}
        recipe = pairs.make(run, tiny_llama, "lora", "reinforcement", seed=5, steps=STEPS, options=options)
        shutil.copyfile(run / "data" / "train.safetensors", run / "data" / "validation.safetensors")
        recipe = recipe.model_copy(update={"eval_every": 1, "keep_best": True})
        (run / "recipe.json").write_text(recipe.model_dump_json())
        return run

    return make


def told(*attempts: Judged) -> list[dict[str, Any]]:
    metrics = [report for attempt in attempts for report in attempt.of("metrics")]
    return [{name: value for name, value in each.items() if name != "tokens_per_second"} for each in metrics]


def test_an_evaluation_that_was_interrupted_is_repeated_by_the_resumed_job(make: Any, tmp_path: Path) -> None:
    whole = attempt(undisturbed := make(), Judged())
    run = make()
    in_subset = attempt(run, Judged(IN_STEP + 1))
    assert in_subset.of("metrics") == []
    assert in_subset.reports[-1] == {"type": "stopped", "step": 1}
    next_run = attempt_after(run, tmp_path / "second", in_subset.of("state")[-1]["path"])
    in_all_rows = attempt(next_run, Judged(SUBSET + ROWS + IN_STEP + SUBSET + 1))
    assert in_all_rows.reports[-1] == {"type": "stopped", "step": STEPS}
    last_run = attempt_after(next_run, tmp_path / "third", in_all_rows.of("state")[-1]["path"])
    last = attempt(last_run, Judged())
    assert {"valid_loss", "full_valid_loss"} <= told(whole)[0].keys()
    assert told(in_subset, in_all_rows, last) == told(whole)
    assert adapter(last_run) == adapter(undisturbed)
    done, expected = last.of("done")[0], whole.of("done")[0]
    assert (done["best_step"], done["evaluation"]) == (expected["best_step"], expected["evaluation"])


def test_the_comparison_waits_for_a_judge_no_longer_than_its_limit(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "COMPARISON_TIMEOUT_S", 0.3)
    questions = STEPS * (IN_STEP + SUBSET + ROWS)
    trained = attempt(make(), Judged(questions, stops=False))
    assert trained.of("done")[0]["evaluation"] is None
    (warning,) = trained.of("warning")
    assert "could not be made, because it took longer" in warning["message"]
