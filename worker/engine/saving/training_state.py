"""Saved states: all that an interrupted training needs to resume and end with the same weights, byte for byte.

A state is a folder of safetensors and JSON files, so loading one runs no code.
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from worker.engine.publish.markdown import Point
from worker.engine.saving.atomic_folder import atomic_folder, keep_newest, verify_manifest
from worker.shared.reports import Metrics

KEPT_STATES = 2
REFERENCES = "references.safetensors"

Tensors = dict[str, torch.Tensor]


@dataclass
class Progress:
    """The loop's state between steps. It is stored as JSON in state.json."""

    step: int = 0
    """Number of optimizer steps made. No other data cursor is needed: the seed and the step's number determine the rows
    of a step."""
    trained_tokens: int = 0
    micro_batch_tokens: int = 0
    """Maximum number of tokens in a micro-batch: the recipe's value, or less after memory ran out."""
    first_loss: float | None = None
    non_finite_steps: int = 0
    """Number of consecutive steps, up to this one, with a non-finite loss or gradient."""
    high_loss_steps: int = 0
    """Number of consecutive steps, up to this one, with a non-finite loss or a loss above the divergence threshold."""
    best_step: int | None = None
    best_loss: float | None = None
    """Validation loss at `best_step`."""
    best_checkpoint: str | None = None
    """Folder name of the checkpoint with the lowest validation loss."""
    best_checkpoint_loss: float | None = None
    """Validation loss of `best_checkpoint`, over all validation rows."""
    patience_loss: float | None = None
    """Validation loss that the next evaluation must improve on by `min_delta`."""
    evaluations_without_gain: int = 0
    """Number of consecutive evaluations that did not improve on `patience_loss`."""
    stopped_early: bool = False
    train_curve: list[Point] = field(default_factory=list)
    valid_curve: list[Point] = field(default_factory=list)
    """`train_curve` and `valid_curve` hold the points of the model card's loss curves."""
    method: dict[str, float] = field(default_factory=dict)
    """A copy of `Objective.state`."""
    last_metrics: Metrics = field(default_factory=dict)
    """Metrics of the last step whose evaluation has ended, for the model card."""
    pending_metrics: Metrics | None = None
    """Metrics of the last step until its evaluation has ended. If the evaluation is interrupted, the resumed training
    repeats it before the next step."""


PROGRESS_FIELDS = {field.name for field in fields(Progress)}
"""Names of the fields of Progress. A state of a newer release may have more fields, which are ignored."""


def begin_state(
    states: Path,
    progress: Progress,
    weights: Tensors,
    optimizer: Tensors,
    recipe_digest: str,
    *,
    best: Path | None,
    references: Path | None,
) -> Callable[[], Path]:
    """Write the files of states/step-%06d. Return a function that waits until the disk has them, makes the folder
    appear, removes all but the newest two, and returns the folder.

    The returned function may run in another thread, because the files share no memory with the training. Saving
    takes most of its time there. Until the function has run, the files may be in the system's page cache only.

    `weights`: the float32 masters. `best`, `references`: files of the best weights and of the reference's
    log-probabilities, shared by all states.
    """
    final = states / f"step-{progress.step:06d}"
    with ExitStack() as stack:
        folder = stack.enter_context(atomic_folder(final))
        save_file(_on_cpu(weights), folder / "weights.safetensors")
        save_file(_on_cpu(optimizer), folder / "optimizer.safetensors")
        rng, python_gauss = _rng_tensors()
        save_file(rng, folder / "rng.safetensors")
        if best is not None:
            _link(best, folder / "best.safetensors")
        if references is not None:
            _link(references, folder / REFERENCES)
        state = {"progress": asdict(progress), "python_gauss": python_gauss, "recipe": recipe_digest}
        (folder / "state.json").write_text(json.dumps(state, indent=2))
        filled = stack.pop_all()

    def finish() -> Path:
        filled.close()
        keep_newest(states, KEPT_STATES)
        return final

    return finish


def _link(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, so that all states share one file, or a copy if the file system has no
    hard links. The source never changes once it is written."""
    try:
        os.link(source, target)
    except OSError:  # the file system has no hard links
        shutil.copyfile(source, target)


@dataclass(frozen=True)
class State:
    progress: Progress
    weights: Tensors
    optimizer: Tensors
    best: Path | None
    recipe_digest: str


def load_state(folder: Path) -> State:
    """Verify the state's files, restore the random generators, and return the rest. Raise TrainingError if a file is
    damaged."""
    verify_manifest(folder)
    state = json.loads((folder / "state.json").read_bytes())
    _restore_rng(load_file(folder / "rng.safetensors"), state["python_gauss"])
    best = folder / "best.safetensors"
    return State(
        _progress_of(state),
        load_file(folder / "weights.safetensors"),
        load_file(folder / "optimizer.safetensors"),
        best if best.exists() else None,
        state["recipe"],
    )


def saved_progress(folder: Path) -> Progress | None:
    """Return the progress of the state in the folder; None if there is no state."""
    try:
        return _progress_of(json.loads((folder / "state.json").read_bytes()))
    except FileNotFoundError:
        return None


def _progress_of(state: Mapping[str, Any]) -> Progress:
    return Progress(**{name: value for name, value in state["progress"].items() if name in PROGRESS_FIELDS})


def save_references(references: Mapping[str, npt.NDArray[np.float32]], out: Path) -> Path | None:
    """Write the reference's log-probabilities, so that a resumed training need not compute them again. Return the file,
    or None if there are none."""
    if not references:
        return None
    out.mkdir(parents=True, exist_ok=True)
    path = out / REFERENCES
    path.unlink(missing_ok=True)  # earlier states keep the file, which never changes
    save_arrays(dict(references), path)
    return path


def load_references(folder: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Return the reference's log-probabilities from the state. Return {} if the file is missing or damaged; the caller
    then computes them again."""
    try:
        return load_arrays(folder / REFERENCES)
    except (OSError, SafetensorError):
        return {}


def optimizer_tensors(optimizer: torch.optim.Optimizer, masters: dict[str, torch.nn.Parameter]) -> Tensors:
    """Return AdamW's moments and step counts, named "WEIGHT:KEY". torch's own state_dict numbers the weights instead,
    in an order that a newer library may change."""
    return {
        f"{name}:{key}": tensor for name, master in masters.items() for key, tensor in optimizer.state[master].items()
    }


def set_optimizer_tensors(
    optimizer: torch.optim.Optimizer, masters: dict[str, torch.nn.Parameter], tensors: Tensors
) -> None:
    for label, tensor in tensors.items():
        name, _, key = label.rpartition(":")
        optimizer.state[masters[name]][key] = tensor.to(masters[name].device)


def _on_cpu(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _rng_tensors() -> tuple[Tensors, float | None]:
    """Return the states of Python's, numpy's and torch's generators, and the float that Python's generator may have
    kept for its next call of `gauss`."""
    _, python_words, python_gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    inner, has_gauss, gauss = numpy_state["state"], numpy_state["has_gauss"], numpy_state["gauss"]
    tensors = {
        "python": torch.tensor(python_words, dtype=torch.int64),
        "numpy": torch.from_numpy(inner["key"].astype(np.int64)),
        "numpy_rest": torch.tensor([inner["pos"], has_gauss, gauss], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors, python_gauss


def _restore_rng(tensors: Tensors, python_gauss: float | None) -> None:
    random.setstate((3, tuple(tensors["python"].tolist()), python_gauss))
    position, has_gauss, gauss = tensors["numpy_rest"].tolist()
    np.random.set_state(
        ("MT19937", tensors["numpy"].numpy().astype(np.uint32), int(position), int(has_gauss), float(gauss))
    )
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
