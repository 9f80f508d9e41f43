"""Techniques that peft does not have. Each file is the torch side of a technique in api/spec/techniques.

To add such a technique, add a file here and a name to TECHNIQUES. Techniques that peft has need neither.
"""

from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import nn
from transformers import PreTrainedModel

from api.spec.techniques import TechniqueBase
from worker.techniques import bottleneck

Model = TypeVar("Model", bound=PreTrainedModel)


class Implementation(Protocol):
    """The functions of a technique's module."""

    def add(self, model: PreTrainedModel, technique: Any) -> dict[str, nn.Parameter]:
        """Put the trained weights into a transformers model, in place, and freeze all other weights. Return the trained
        weights by their names in the model."""

    def save(self, model: PreTrainedModel, technique: Any, folder: Path, base_name: str) -> None:
        """Write the adapter into the folder. `base_name`: the name by which users know the base model."""

    def load(self, model: Model, folder: Path) -> Model:
        """Put the adapter of a folder into a transformers model, and return the model."""

    def loading_code(self, model_type: str, auto_class: str, arguments: str) -> str:
        """Return the Python code that loads the adapter, for the model card. `arguments`: further arguments of the base
        model's `from_pretrained`, each after a comma."""


TECHNIQUES: dict[str, Implementation] = {"bottleneck": bottleneck}


def implementation_of(technique: TechniqueBase) -> Implementation | None:
    """Return the module that implements the technique, or None if peft implements the technique or it adds no
    weights."""
    return TECHNIQUES.get(technique.type)
