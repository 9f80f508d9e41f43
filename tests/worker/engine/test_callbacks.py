"""Evaluations, checkpoints, the best weights, early stopping: what a run reports and leaves behind."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.worker.losses import as_rows, plain_loss
from tests.worker.recorder import train_here
from tests.worker.run_folders import make_run, random_rows


def _run(folder: Path, base: Path, *, epochs: int = 3, **options: Any) -> Path:
    """6 steps an epoch."""
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": 4}}}
    options = {"train": random_rows(23, seed=1), "validation": random_rows(5, seed=2), "method": method} | options
    return make_run(folder, base, **options)


def test_each_step_is_reported_once_and_evaluated_when_due(tiny_llama: Path, tmp_path: Path) -> None:
    training = {"eval_every": 4, "learning_rate": 1e-3}
    metrics = train_here(_run(tmp_path / "run", tiny_llama, epochs=2, training=training)).of("metrics")
    assert [report["step"] for report in metrics] == list(range(1, 13))
    assert [report["step"] for report in metrics if "valid_loss" in report] == [4, 8, 12]
    assert [report["step"] for report in metrics if "full_valid_loss" in report] == [6, 12]
    assert metrics[-1]["epoch"] == 2.0
    assert metrics[-1]["total_steps"] == 12


def test_the_first_loss_is_the_bases_own(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    data = random_rows(8, seed=seed)
    run = make_run(tmp_path / "run", tiny_llama, train=data, training={"max_steps": 1}, method=_batch(8))
    expected, _ = plain_loss(tiny_llama, as_rows(tmp_path, data))
    assert train_here(run).of("metrics")[0]["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_newest_three_checkpoints_and_the_best_stay(tiny_llama: Path, tmp_path: Path) -> None:
    # What is learned from random rows hurts on others: the first checkpoint is the best.
    run = _run(tmp_path / "run", tiny_llama, epochs=6, training={"learning_rate": 3e-2, "scheduler": "constant"})
    reports = train_here(run).of("checkpoint")
    assert [report["step"] for report in reports] == [6, 12, 18, 24, 30, 36]
    losses = {report["step"]: report["metrics"]["full_valid_loss"] for report in reports}
    kept = sorted({min(losses, key=losses.__getitem__), 24, 30, 36})
    names = sorted(path.name for path in (run / "out" / "checkpoints").iterdir())
    assert names == [f"step-{step:06d}" for step in kept]


@pytest.mark.parametrize("keep_best", [True, False])
def test_the_best_weights_are_published_where_asked(keep_best: bool, tiny_llama: Path, tmp_path: Path) -> None:
    training = {"learning_rate": 3e-2, "scheduler": "constant", "eval_every": 6, "keep_best": keep_best}
    run = _run(tmp_path / "run", tiny_llama, training=training)
    recorder = train_here(run)
    losses = {report["step"]: report["valid_loss"] for report in recorder.of("metrics") if "valid_loss" in report}
    best = min(losses, key=losses.__getitem__)
    assert best != 18, losses
    assert recorder.of("done")[0]["best_step"] == best
    published = load_file(run / "out" / "model" / "adapter_model.safetensors")
    checkpoint = load_file(run / "out" / "checkpoints" / "step-000018" / "adapter_model.safetensors")
    is_last = all(torch.equal(published[name], checkpoint[name]) for name in published)
    assert is_last is not keep_best


def test_training_stops_when_validation_gains_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    training = {"learning_rate": 3e-2, "eval_every": 2, "early_stopping": {"patience": 2}}
    run = _run(tmp_path / "run", tiny_llama, epochs=6, training=training)
    recorder = train_here(run)
    losses = [report["valid_loss"] for report in recorder.of("metrics") if "valid_loss" in report]
    assert recorder.of("done")[0]["step"] < 36
    assert min(losses[-2:]) >= min(losses[:-2])
    assert (run / recorder.of("checkpoint")[-1]["path"]).exists()


def test_a_whole_model_loads_in_plain_transformers_with_its_tokenizer(tiny_llama: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"technique": {"type": "full"}, "hardware": {"precision": "bfloat16"}}
    run = _run(tmp_path / "run", tiny_llama, epochs=1, **options)
    train_here(run)
    model = AutoModelForCausalLM.from_pretrained(run / "out" / "model")
    assert model.dtype == torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(run / "out" / "model")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text == "<turn>user\nhi</turn>\n"


def test_what_is_published_lists_its_files_and_has_a_model_card(tiny_llama: Path, tmp_path: Path) -> None:
    run = _run(tmp_path / "run", tiny_llama, epochs=1)
    train_here(run)
    folder = run / "out" / "model"
    manifest = json.loads((folder / "manifest.json").read_text())
    listed = {entry["name"] for entry in manifest["files"]}
    assert listed | {"manifest.json"} == {path.name for path in folder.iterdir()}
    assert manifest["origin"]["base"]["name"] == "tiny"
    card = (folder / "README.md").read_text()
    assert card.startswith('---\nbase_model: "tiny"\nlibrary_name: "peft"\n')


def _batch(size: int) -> dict[str, Any]:
    return {"type": "supervised", "supervised": {"hyperparameters": {"batch_size": size}}}
