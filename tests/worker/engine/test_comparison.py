"""Base against tuned: what a job tells of it, and that it never costs a job its model."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from api.spec.evaluation import COMPARED_TRAINING_ROWS
from api.spec.lifecycle import FailureReason
from tests.worker import pairs
from tests.worker.losses import as_rows, plain_loss
from tests.worker.recorder import Recorder, train_here
from tests.worker.run_folders import make_run, random_rows
from worker import train as train_program
from worker.engine import comparison
from worker.engine.errors import TrainingError
from worker.engine.model.load import load_trainable
from worker.engine.model.trainable import TrainableModel
from worker.methods import METHODS

TRAINING = {"max_steps": 4, "learning_rate": 1e-2}


def _evaluation(recorder: Recorder) -> dict[str, Any]:
    found: dict[str, Any] = recorder.of("done")[0]["evaluation"]
    return found


def test_base_and_tuned_are_measured_on_the_same_validation_rows(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    held_out = random_rows(5, seed=seed)
    run = make_run(tmp_path / "run", tiny_llama, train=random_rows(8, seed=1), validation=held_out, training=TRAINING)
    trained = train_here(run)
    found = _evaluation(trained)
    expected, _ = plain_loss(tiny_llama, as_rows(tmp_path, held_out))
    assert (found["rows"], found["drawn_from"], found["base_model"]) == (5, "validation", "tiny")
    assert found["base"]["loss"] == pytest.approx(expected, rel=1e-5)
    best = trained.of("done")[0]["best_step"]
    losses = {report["step"]: report.get("valid_loss") for report in trained.of("metrics")}
    assert found["tuned"]["loss"] == pytest.approx(losses[best], rel=1e-6)
    assert json.loads((run / "out" / "model" / "evaluation.json").read_text()) == found


def test_without_validation_training_rows_are_named_as_such(tiny_llama: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tiny_llama, train=random_rows(40, seed=1, longest=16), training=TRAINING)
    found = _evaluation(train_here(run))
    assert (found["rows"], found["drawn_from"]) == (COMPARED_TRAINING_ROWS, "training")
    assert found["tuned"]["loss"] < found["base"]["loss"]
    other = make_run(tmp_path / "other", tiny_llama, train=random_rows(40, seed=1, longest=16), training=TRAINING)
    recipe = json.loads((other / "recipe.json").read_text())
    (other / "recipe.json").write_text(json.dumps(recipe | {"seed": 8}))
    assert _evaluation(train_here(other))["base"] == found["base"], "the same rows, whatever the job's seed"


def test_a_loss_that_was_compared_on_training_rows_also_tells_whether_the_model_has_learned(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scalars = comparison._scalars
    monkeypatch.setattr(comparison, "_scalars", lambda metrics: scalars(metrics) | {"loss": None})  # NaN
    run = make_run(tmp_path / "run", tiny_llama, train=random_rows(8, seed=1), training=TRAINING)
    with pytest.raises(TrainingError) as caught:
        train_here(run)
    assert caught.value.reason is FailureReason.DIVERGED
    assert not (run / "out" / "model").exists()
    other = make_run(
        tmp_path / "other",
        tiny_llama,
        train=random_rows(8, seed=1),
        validation=random_rows(4, seed=2),
        training=TRAINING,
    )
    assert train_here(other).of("done"), "the loss on validation rows proves nothing"


@pytest.mark.parametrize(
    ("method", "metric"),
    [("dpo", "preference_accuracy"), ("orpo", "rewards_accuracy"), ("classification", "accuracy")],
)
def test_methods_are_compared_by_what_both_models_have(
    method: str, metric: str, tiny_llama: Path, tmp_path: Path
) -> None:
    pairs.make(tmp_path / "run", tiny_llama, "lora", method, seed=3, steps=12)
    found = _evaluation(train_here(tmp_path / "run"))
    assert found["base"][metric] < found["tuned"][metric] == 1.0
    assert len(found["samples"]) == 3
    assert {sample["reference"] is not None for sample in found["samples"]} == {True}


def test_samples_are_the_rows_own_prompts_and_answers(tiny_llama: Path, tmp_path: Path) -> None:
    pairs.make(tmp_path / "run", tiny_llama, "lora", "supervised", seed=3, steps=40)
    sample = _evaluation(train_here(tmp_path / "run"))["samples"][0]
    assert len(sample["reference"]) == 6
    assert set(sample["reference"]) <= set("+,-")  # the tokens 10, 11 and 12
    assert set(sample["tuned"][:6]) <= set("+,-")
    assert not set(sample["base"]) <= set("+,-")
    assert sample["base"].endswith("…"), "cut after a few tokens"


def test_a_comparison_that_takes_too_long_costs_no_model(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "COMPARISON_TIMEOUT_S", -1.0)
    run = make_run(tmp_path / "run", tiny_llama, train=random_rows(8, seed=1), training=TRAINING)
    trained = train_here(run)
    assert _evaluation(trained) is None
    (warning,) = trained.of("warning")
    assert warning["message"].startswith("The evaluation of the base model could not be made, because it took longer")
    assert (run / "out" / "model" / "adapter_model.safetensors").exists()
    assert not (run / "out" / "model" / "evaluation.json").exists()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[TrainableModel]:
    """The models that trainers have loaded so far."""
    models: list[TrainableModel] = []

    def load(*args: Any, **options: Any) -> TrainableModel:
        models.append(load_trainable(*args, **options))
        return models[-1]

    monkeypatch.setattr(train_program, "load_trainable", load)
    return models


@pytest.mark.parametrize(
    ("technique", "method", "loads"),
    [("lora", "supervised", 1), ("full", "supervised", 2), ("full", "classification", 2), ("full", "ppo", 1)],
)
def test_the_base_is_loaded_again_only_where_its_weights_were_not_kept(
    technique: str, method: str, loads: int, tiny_llama: Path, tmp_path: Path, loaded: list[TrainableModel]
) -> None:
    """… and is measured as it was at step 0, with its random head, if it has one."""
    options = {"grader": pairs.GRADER, "reward_model": None} if method == "ppo" else {}
    pairs.make(tmp_path / "run", tiny_llama, technique, method, seed=4, steps=4, options=options)
    found = _evaluation(train_here(tmp_path / "run"))
    assert len(loaded) == loads
    pairs.make(tmp_path / "still", tiny_llama, technique, method, seed=4, steps=1, rate=1e-30, options=options)
    still = _evaluation(train_here(tmp_path / "still"))
    assert found["base"] == still["base"] == still["tuned"]
    assert found["tuned"] != found["base"]


def count_passes(method: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list to which each pass of a comparison adds its name."""
    made: list[str] = []

    def counting(name: str, whole: Any) -> Any:
        def act(*args: Any) -> Any:
            made.append(name)
            return whole(*args)

        return act

    for name in ("comparison_metrics", "sample_answers", "with_reference"):
        monkeypatch.setattr(METHODS[method], name, counting(name, getattr(METHODS[method], name)))
    return made


def next_job(run: Path, folder: Path, base: Path, *choice: str, rate: float = 1e-2) -> Path:
    """A run folder with the measurement of the job in `run`."""
    pairs.make(folder, base, *choice, seed=3, steps=4, rate=rate)
    shutil.copytree(run / "out" / "measured", folder / "measured")
    return folder


@pytest.mark.parametrize("choice", [("lora", "supervised"), ("full", "supervised"), ("lora", "dpo")])
def test_a_later_job_uses_the_measurement_of_the_base_again(
    choice: tuple[str, str],
    tiny_llama: Path,
    tmp_path: Path,
    loaded: list[TrainableModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes = count_passes(choice[1], monkeypatch)
    pairs.make(tmp_path / "run", tiny_llama, *choice, seed=3, steps=4, rate=1e-2)
    first = _evaluation(train_here(tmp_path / "run"))
    assert passes == ["with_reference", *2 * ["comparison_metrics", "sample_answers"]]
    passes.clear()
    loaded.clear()
    again = next_job(tmp_path / "run", tmp_path / "again", tiny_llama, *choice)
    assert _evaluation(train_here(again)) == first
    assert passes == ["comparison_metrics", "sample_answers"], "of the tuned model alone"
    assert len(loaded) == 1
    other = next_job(again, tmp_path / "other", tiny_llama, *choice, rate=3e-3)
    found = _evaluation(train_here(other))
    assert found["base"] == first["base"]
    assert found["tuned"] != first["tuned"]


def test_a_measurement_of_other_rows_or_a_damaged_one_is_not_used(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = ("lora", "supervised")
    passes = count_passes("supervised", monkeypatch)
    pairs.make(tmp_path / "run", tiny_llama, *choice, seed=4, steps=4)
    train_here(tmp_path / "run")
    other = next_job(tmp_path / "run", tmp_path / "other", tiny_llama, *choice)
    expected = _evaluation(train_here(other))
    damaged = next_job(other, tmp_path / "damaged", tiny_llama, *choice)
    for file in (damaged / "measured").iterdir():
        file.write_bytes(file.read_bytes()[:-10])
    assert _evaluation(train_here(damaged)) == expected
    assert passes.count("comparison_metrics") == 3 * 2


def test_a_measurement_that_cannot_be_saved_costs_no_comparison(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(comparison, "save_measurement", full)
    pairs.make(tmp_path / "run", tiny_llama, "lora", "supervised", seed=3, steps=1)
    assert _evaluation(train_here(tmp_path / "run"))["base"]
