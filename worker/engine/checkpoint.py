"""States: everything from which an interrupted run goes on as if nothing had happened. safetensors and JSON only."""

import json
import os
import random
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file

from worker.engine.atomic_folder import atomic_folder, keep_newest, verify
from worker.engine.publish.markdown import Point

KEPT_STATES = 2
REFERENCES = "references.safetensors"

Tensors = dict[str, torch.Tensor]


@dataclass
class Progress:
    """What the loop remembers from step to step."""

    step: int = 0
    """Optimizer steps done. It is the data cursor too: the rows of a step follow from the seed and its number."""
    trained_tokens: int = 0
    micro_batch_tokens: int = 0
    """As asked, or halved when memory ran out."""
    first_loss: float | None = None
    non_finite_steps: int = 0
    """In a row, up to now."""
    high_loss_steps: int = 0
    """In a row, up to now."""
    best_step: int | None = None
    best_loss: float | None = None
    """Validation loss at `best_step`."""
    best_checkpoint: str | None = None
    """The name of the listed checkpoint with the lowest validation loss …"""
    best_checkpoint_loss: float | None = None
    """… and that loss."""
    patience_loss: float | None = None
    """The validation loss that early stopping measures gains from."""
    evaluations_without_gain: int = 0
    stopped_early: bool = False
    train_curve: list[Point] = field(default_factory=list)
    valid_curve: list[Point] = field(default_factory=list)
    """Losses for the model card (worker.engine.publish.markdown)."""
    method: dict[str, float] = field(default_factory=dict)
    """What the method itself remembers."""


KNOWN = {each.name for each in fields(Progress)}
"""A state of a newer release may remember more: what is not known here is left out."""


def save_state(
    states: Path,
    progress: Progress,
    weights: Tensors,
    optimizer: Tensors,
    recipe_digest: str,
    *,
    best: Path | None,
    references: Path | None,
) -> Path:
    """Write states/step-%06d, whole or not at all, and drop all but the newest two. `best` and `references`: files
    that all states share."""
    final = states / f"step-{progress.step:06d}"
    with atomic_folder(final) as folder:
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
    keep_newest(states, KEPT_STATES)
    return final


def _link(source: Path, target: Path) -> None:
    """The best weights and the references do not change any more, so that states can share one file."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


@dataclass(frozen=True)
class State:
    progress: Progress
    weights: Tensors
    optimizer: Tensors
    best: Path | None
    recipe_digest: str


def load_state(folder: Path) -> State:
    """Verify every byte, restore the random generators, and return the rest. Raises TrainingError."""
    verify(folder)
    state: dict[str, Any] = json.loads((folder / "state.json").read_bytes())
    _restore_rng(load_file(folder / "rng.safetensors"), state["python_gauss"])
    best = folder / "best.safetensors"
    return State(
        Progress(**{name: value for name, value in state["progress"].items() if name in KNOWN}),
        load_file(folder / "weights.safetensors"),
        load_file(folder / "optimizer.safetensors"),
        best if best.exists() else None,
        state["recipe"],
    )


def load_references(folder: Path) -> dict[str, npt.NDArray[np.float32]]:
    """What a method knew of the rows when the state was saved; {} where it is not whole, since it can be computed
    again."""
    try:
        return load_arrays(folder / REFERENCES)
    except (OSError, SafetensorError):
        return {}


def optimizer_tensors(optimizer: torch.optim.Optimizer, masters: dict[str, torch.nn.Parameter]) -> Tensors:
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
    """Python's, numpy's and torch's generators, and the one number of Python's that is no integer."""
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
