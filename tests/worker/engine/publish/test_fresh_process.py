"""Before anything is published, a process of its own reads it from the disk."""

import multiprocessing
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from api.spec.resolve import ResolvedRecipe
from api.spec.scoring import ModelFiles, ScoringRequest
from tests.worker.recorder import adapter, train_here
from tests.worker.run_folders import make_run, random_rows, run_trainer
from worker.engine.errors import TrainingError
from worker.engine.memory.peak_memory import PeakSampler
from worker.engine.publish import fresh_process
from worker.engine.publish.fresh_process import Scorer, score_in_fresh_process


def _run(folder: Path, base: Path) -> Path:
    return make_run(
        folder,
        base,
        train=random_rows(12, seed=5),
        technique={"type": "lora", "rank": 4},
        training={"max_steps": 3, "learning_rate": 1e-3},
        hardware={"merged": True},
    )


def _request(run: Path, folder: Path) -> ScoringRequest:
    recipe = ResolvedRecipe.model_validate_json((run / "recipe.json").read_bytes())
    files = ModelFiles(folder=str(folder), base=str((run / "base").resolve()), recipe=recipe)
    return ScoringRequest(models=[files], rows=[list(range(8))], device="cpu")


def test_another_process_reads_the_adapter_and_the_merged_weights(tiny_llama: Path, tmp_path: Path) -> None:
    done = run_trainer(_run(tmp_path / "fresh", tiny_llama), env={"ATTUNE_FRESH_PROOF": "1"})
    assert done.code == 0, done.log
    assert re.search(r"parity: process \d+ scored the files", done.log)
    assert done.log.count(" rows, ") == 3  # the trainer's own way, the adapter, the merged weights
    peaks = done.reports[-1]["peaks"]
    assert peaks["publishing"] > 200 * 2**20 + peaks["exporting"] / 2, "both processes hold their libraries"
    assert done.reports[-1]["peak_bytes"] == max(peaks.values())
    train_here(_run(tmp_path / "here", tiny_llama))
    assert adapter(tmp_path / "fresh") == adapter(tmp_path / "here")


def test_files_that_cannot_be_read_are_not_published(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = _run(tmp_path / "run", tiny_llama)
    train_here(run)
    published = run / "out" / "model"
    (published / "adapter_model.safetensors").write_bytes(b"no tensors")
    monkeypatch.setenv("ATTUNE_FRESH_PROOF", "1")
    with pytest.raises(TrainingError) as caught:
        score_in_fresh_process(_request(run, published), lambda: None)
    assert caught.value.reason == "internal"
    assert "SafetensorError" in capfd.readouterr().err


def test_a_reader_that_does_not_end_is_ended(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _run(tmp_path / "run", tiny_llama)
    monkeypatch.setenv("ATTUNE_FRESH_PROOF", "1")
    monkeypatch.setattr(fresh_process, "KEEP_ALIVE_S", 0.01)
    monkeypatch.setattr(fresh_process, "TIMEOUT_S", 0.01)
    with pytest.raises(TrainingError) as caught:
        score_in_fresh_process(_request(run, run), lambda: None)
    assert caught.value.reason == "hung"


def test_a_reader_that_the_kernel_kills_has_run_out_of_memory(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run(tmp_path / "run", tiny_llama)

    monkeypatch.setenv("ATTUNE_FRESH_PROOF", "1")
    monkeypatch.setattr(fresh_process, "_forked", [scorer := Scorer(multiprocessing.get_context("spawn"))])
    monkeypatch.setattr(scorer.process, "is_alive", lambda: True)
    scorer.process.kill()
    with pytest.raises(TrainingError) as caught:
        score_in_fresh_process(_request(run, run), lambda: None)
    assert caught.value.reason == "out_of_memory"


SCATTERED = """
from pathlib import Path
from worker.engine.memory.heap import return_freed_blocks

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

return_freed_blocks()
del (large := [bytearray(30 * 2**20)])[:]  # from here on glibc takes blocks of that size from its heap
before, kept = resident(), []
for _ in range(25):
    block, neighbor = bytearray(4 * 2**20), bytearray(200)
    kept.append(neighbor)
    blocks = globals().setdefault("blocks", [])
    blocks.append(block)
del block
blocks.clear()
print(resident() - before)
"""


def test_what_the_reader_frees_is_free() -> None:
    done = subprocess.run([sys.executable, "-c", SCATTERED], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10 * 2**20


def test_the_highest_is_what_was_held_at_once() -> None:
    with PeakSampler(torch.device("cpu")) as before:
        time.sleep(3 * PeakSampler.EVERY_S)
    with PeakSampler(torch.device("cpu")) as highest:
        held = torch.ones(25 * 2**20)
        time.sleep(3 * PeakSampler.EVERY_S)
        del held
    assert highest.bytes - before.bytes > 90 * 2**20
