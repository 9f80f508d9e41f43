"""A run that was interrupted anywhere publishes the bytes of the run that was not."""

import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.worker.recorder import adapter, attempt_after, train_here
from tests.worker.run_folders import make_run, random_rows, run_trainer
from worker.engine.errors import TrainingError
from worker.engine.saving.identity import recipe_digest
from worker.engine.saving.training_state import load_state


def _run(folder: Path, base: Path, *, precision: str = "float32", **technique: Any) -> Path:
    """12 steps over two epochs, an evaluation every third and a state every fifth; dropout draws random numbers."""
    return make_run(
        folder,
        base,
        train=random_rows(23, seed=1),
        validation=random_rows(5, seed=2),
        technique={"type": "lora", "rank": 4, "dropout": 0.2} | technique,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}},
        training={"learning_rate": 1e-3, "eval_every": 3, "save_every": 5},
        hardware={"precision": precision},
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_stopped_anywhere_and_resumed_gives_the_same_bytes(
    precision: str, tiny_llama: Path, tmp_path: Path, seed: int
) -> None:
    whole = train_here(_run(tmp_path / "whole", tiny_llama, precision=precision))
    run = _run(tmp_path / "first", tiny_llama, precision=precision)
    stops = random.Random(seed).sample(range(1, 12), 2)
    for number, stop in enumerate(sorted(stops)):
        first = train_here(run, stop_after=stop - sum(s < stop for s in stops) * min(stops))
        run = attempt_after(run, tmp_path / f"next{number}", first.of("state")[-1]["path"])
    last = train_here(run)
    assert adapter(run) == adapter(tmp_path / "whole")
    done, expected = last.of("done")[0], whole.of("done")[0]
    measured = ("peak_bytes", "peaks", "processor_s")
    assert [value for name, value in done.items() if name not in measured] == [
        value for name, value in expected.items() if name not in measured
    ]


def test_killed_after_a_state_and_resumed_gives_the_same_bytes(tiny_llama: Path, tmp_path: Path) -> None:
    train_here(_run(tmp_path / "whole", tiny_llama))
    killed = run_trainer(_run(tmp_path / "killed", tiny_llama), env={"ATTUNE_FAIL_AT": "step:11:kill"})
    assert killed.code == -9
    assert killed.of("metrics")[-1]["step"] == 10
    (state, *_) = killed.of("state")  # that of step 10 waited for it, and may have been lost
    run = attempt_after(tmp_path / "killed", tmp_path / "next", state["path"])
    resumed = run_trainer(run)
    assert resumed.code == 0, resumed.log
    assert [report["step"] for report in resumed.of("metrics")] == list(range(6, 13))
    assert adapter(run) == adapter(tmp_path / "whole")


def test_full_training_in_bfloat16_resumes_from_its_float32_masters(tiny_llama: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"train": random_rows(12, seed=3), "technique": {"type": "full"}}
    options |= {"hardware": {"precision": "bfloat16"}, "training": {"learning_rate": 1e-3, "max_steps": 6}}
    train_here(make_run(tmp_path / "whole", tiny_llama, **options))
    run = make_run(tmp_path / "first", tiny_llama, **options)
    stopped = train_here(run, stop_after=3)
    run = attempt_after(run, tmp_path / "next", stopped.of("state")[-1]["path"])
    train_here(run)
    name = "out/model/model.safetensors"
    assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_damaged_state_is_refused_by_name(tiny_llama: Path, tmp_path: Path) -> None:
    run = _run(tmp_path / "first", tiny_llama)
    stopped = train_here(run, stop_after=2)
    state = run / stopped.of("state")[-1]["path"]
    weights = bytearray((state / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (state / "weights.safetensors").write_bytes(weights)
    with pytest.raises(TrainingError, match=r"weights\.safetensors is not the file that was saved") as caught:
        load_state(state)
    assert caught.value.reason == "internal"


def test_a_state_of_another_recipe_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    stopped = train_here(_run(tmp_path / "first", tiny_llama), stop_after=2)
    run = attempt_after(tmp_path / "first", tmp_path / "next", stopped.of("state")[-1]["path"])
    (run / "recipe.json").unlink()
    other = _run(tmp_path / "other", tiny_llama, rank=8)
    (run / "recipe.json").write_text((other / "recipe.json").read_text())
    with pytest.raises(TrainingError, match="another recipe"):
        train_here(run)


def test_only_the_newest_two_states_stay_on_the_disk(tiny_llama: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"training": {"max_steps": 9, "save_every": 2}, "train": random_rows(12, seed=3)}
    train_here(make_run(tmp_path / "run", tiny_llama, **options))
    states = sorted(path.name for path in (tmp_path / "run" / "out" / "states").iterdir())
    assert states == ["step-000006", "step-000008"]


SAVED_STATES = Path(__file__).parent / "saved_states"


@pytest.mark.parametrize("schema", sorted(path.name for path in SAVED_STATES.iterdir()))
def test_state_of_an_older_release_is_resumed(schema: str, tiny_llama: Path, tmp_path: Path) -> None:
    """Run folders as the last release of each database schema left them, after three of six steps."""
    run = tmp_path / "run"
    shutil.copytree(SAVED_STATES / schema, run)
    (run / "base").symlink_to(tiny_llama)
    trained = train_here(run)
    assert [report["step"] for report in trained.of("metrics")] == [4, 5, 6]
    assert trained.of("done")


def test_state_survives_new_fields_and_an_attempt_with_less_memory(tiny_llama: Path, tmp_path: Path) -> None:
    stopped = train_here(_run(tmp_path / "first", tiny_llama), stop_after=6)
    run = attempt_after(tmp_path / "first", tmp_path / "next", stopped.of("state")[-1]["path"])
    stored = json.loads((run / "recipe.json").read_bytes())
    del stored["overlong"]  # as a release wrote it that had no such field
    state = json.loads((run / "resume" / "state.json").read_bytes())
    (run / "recipe.json").unlink()
    (run / "recipe.json").write_text(json.dumps(stored, indent=2))
    state["recipe"] = recipe_digest(run)
    state["progress"]["of_a_newer_release"] = 1
    stored |= {"micro_batch_tokens": 32, "gradient_checkpointing": True}
    (run / "recipe.json").write_text(json.dumps(stored, indent=2))
    write_text_into(run / "resume", "state.json", json.dumps(state))
    assert train_here(run).of("done")


def write_text_into(folder: Path, name: str, text: str) -> None:
    """Replace a file of a saved folder, and what its manifest says of it."""
    (folder / name).write_text(text)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    entry = next(each for each in manifest["files"] if each["name"] == name)
    entry |= {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text.encode())}
    (folder / "manifest.json").write_text(json.dumps(manifest))
