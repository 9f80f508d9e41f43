"""Before anything is published, a process of its own reads it from the disk."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from api.recipe import ResolvedRecipe
from tests.worker.recorder import adapter, train_here
from tests.worker.run_folders import make_run, random_rows, run_trainer
from worker.arrays import Rows
from worker.engine import rereading
from worker.engine.rereading import reread
from worker.engine.stopping import TrainingError


def _run(folder: Path, base: Path) -> Path:
    return make_run(
        folder,
        base,
        train=random_rows(12, seed=5),
        technique={"type": "lora", "rank": 4},
        training={"max_steps": 3, "learning_rate": 1e-3},
        hardware={"merged": True},
    )


def test_another_process_reads_the_adapter_and_the_merged_weights(tiny_llama: Path, tmp_path: Path) -> None:
    done = run_trainer(_run(tmp_path / "fresh", tiny_llama), env={"ATTUNE_FRESH_PROOF": "1"})
    assert done.code == 0, done.log
    assert "proof: the files were read by process" in done.log
    assert done.log.count(" rows, ") == 3  # the trainer's own way, the adapter, the merged weights
    train_here(_run(tmp_path / "here", tiny_llama))
    assert adapter(tmp_path / "fresh") == adapter(tmp_path / "here")


def test_files_that_cannot_be_read_are_not_published(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = _run(tmp_path / "run", tiny_llama)
    train_here(run)
    published = run / "out" / "model"
    (published / "adapter_model.safetensors").write_bytes(b"no tensors")
    rows = Rows(np.arange(8, dtype=np.int32), np.ones(8, np.float32), np.array([0]), np.array([8]))
    recipe = ResolvedRecipe.model_validate(json.loads((run / "recipe.json").read_bytes()))
    monkeypatch.setenv("ATTUNE_FRESH_PROOF", "1")
    with pytest.raises(TrainingError) as caught:
        reread(published, None, run / "base", recipe, rows, torch.device("cpu"), lambda: None)
    assert caught.value.reason == "internal"
    assert "SafetensorError" in capfd.readouterr().err


def test_a_reader_that_does_not_end_is_ended(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _run(tmp_path / "run", tiny_llama)
    rows = Rows(np.arange(8, dtype=np.int32), np.ones(8, np.float32), np.array([0]), np.array([8]))
    recipe = ResolvedRecipe.model_validate(json.loads((run / "recipe.json").read_bytes()))
    monkeypatch.setenv("ATTUNE_FRESH_PROOF", "1")
    monkeypatch.setattr(rereading, "ALIVE_S", 0.01)
    monkeypatch.setattr(rereading, "LONGEST_S", 0.01)
    with pytest.raises(TrainingError) as caught:
        reread(run, None, run / "base", recipe, rows, torch.device("cpu"), lambda: None)
    assert caught.value.reason == "hung"


def test_a_reader_that_the_kernel_kills_has_run_out_of_memory(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run(tmp_path / "run", tiny_llama)
    rows = Rows(np.arange(8, dtype=np.int32), np.ones(8, np.float32), np.array([0]), np.array([8]))
    recipe = ResolvedRecipe.model_validate(json.loads((run / "recipe.json").read_bytes()))

    def killed(reader: subprocess.Popen[str], *_: object) -> str:
        reader.kill()
        return reader.communicate()[0]

    monkeypatch.setenv("ATTUNE_FRESH_PROOF", "1")
    monkeypatch.setattr(rereading, "_told", killed)
    with pytest.raises(TrainingError) as caught:
        reread(run, None, run / "base", recipe, rows, torch.device("cpu"), lambda: None)
    assert caught.value.reason == "out_of_memory"
