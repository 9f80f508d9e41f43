"""Jobs without the service: prepares files and runs the trainer on a run folder, as the worker does."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.spec.recipe import Recipe
from api.spec.resolve import Labels, ResolvedRecipe, resolve
from tests.worker.prepared import jsonl, prepare

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Trained:
    run: Path
    metrics: list[dict[str, Any]]
    """The trainer's reports, one per step. The last has the metrics of the held-out rows (`full_valid_…`)."""
    seconds: float
    """Seconds from the first step to the last, with evaluations, but without loading, comparing and publishing."""
    peak_bytes: int
    """Peak resident memory of the trainer, from its start to its last step."""

    @property
    def last(self) -> dict[str, Any]:
        return self.metrics[-1]

    @property
    def published(self) -> Path:
        return self.run / "out" / "model"

    def weights_bytes(self) -> int:
        """Return the size of the published weights, without tokenizer and model card."""
        return sum(path.stat().st_size for path in self.published.glob("*.safetensors"))

    def recipe(self) -> ResolvedRecipe:
        return ResolvedRecipe.model_validate_json((self.run / "recipe.json").read_bytes())


def fill_run_folder(
    folder: Path,
    base: Path,
    train: Sequence[Mapping[str, Any]],
    heldout: Sequence[Mapping[str, Any]],
    *,
    seed: int,
    method: dict[str, Any],
    technique: dict[str, Any],
    training: Mapping[str, Any],
    reward_models: Mapping[str, Path] | None = None,
) -> ResolvedRecipe:
    """Fill a run folder as the supervisor does. `heldout` is the validation file, which influences no decision.

    `reward_models` maps ids to folders that `train` published with the same technique.
    """
    outcome = prepare(folder, base, jsonl(*train), jsonl(*heldout), method=method, context_window=512)
    assert outcome.report["ok"], outcome.report
    files = outcome.report["files"]
    labels = None
    if files[0]["problem"]:
        labels = Labels(problem=files[0]["problem"], names=tuple(files[0]["label_names"] or ()))
    body = {
        "model": base.name,
        "training_file": "file-train",
        "validation_file": "file-heldout",
        "method": method,
        "technique": technique,
        "training": {"keep_best": False, "eval_every": 1_000_000, "save_every": 1_000_000, **training},
    }
    recipe = resolve(
        Recipe.model_validate(body),
        job_id="ftjob-relations",
        seed=seed,
        max_length=max(file["longest_row"] for file in files),
        train_rows=files[0]["array_rows"],
        validation_rows=files[1]["array_rows"],
        labels=labels,
    )
    (folder / "recipe.json").write_text(recipe.model_dump_json(indent=2))
    for name, published in (reward_models or {}).items():
        (folder / "judge").symlink_to(published)
        (folder / "judges.json").write_text(json.dumps({name: {"folder": "judge", "technique": technique}}))
    return recipe


def train(run: Path) -> Trained:
    """Run the trainer on a run folder, in a child process that reports on a pipe."""
    read_fd, write_fd = os.pipe()
    with (run / "log.txt").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "worker.train", str(run)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[write_fd],
            cwd=ROOT,
            env=os.environ | {"ATTUNE_REPORT_FD": str(write_fd)},
        )
    os.close(write_fd)
    metrics: list[dict[str, Any]] = []
    times: list[float] = []
    peak, last = 0, dict[str, Any]()
    with os.fdopen(read_fd) as reports:
        for line in reports:
            last = json.loads(line)
            if last["type"] == "phase" and last["phase"] in {"training", "comparing"}:
                times.append(time.monotonic())
            if last["type"] == "phase" and last["phase"] == "comparing":
                peak = _peak_bytes(child.pid)
            if last["type"] == "metrics":
                metrics.append(last)
    code = child.wait()
    assert code == 0, f"{run}: the trainer exited with code {code}: {last}"
    return Trained(run, metrics, times[-1] - times[0], peak)


def _peak_bytes(pid: int) -> int:
    """Return the peak resident memory of the process. Unlike rusage's, it does not include the parent's."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
