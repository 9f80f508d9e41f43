"""Which jobs may use each other's measurement of the base model."""

from pathlib import Path

import torch
from pydantic import TypeAdapter

from api.spec.methods import Method
from tests.worker import pairs
from worker.engine.base_measurement import measurement_name
from worker.shared.arrays import load_rows


def test_the_name_depends_on_a_methods_own_hyperparameters_but_not_on_openais(tmp_path: Path) -> None:
    recipe = pairs.make(tmp_path / "run", tmp_path / "base", "lora", "dpo", seed=3, steps=4)
    rows = load_rows(tmp_path / "run" / "data" / "train.safetensors")

    def name(**hyperparameters: float) -> str:
        method = {"type": "dpo", "dpo": {"loss": "ipo", "hyperparameters": hyperparameters}}
        chosen = recipe.model_copy(update={"method": TypeAdapter[Method](Method).validate_python(method)})
        return measurement_name(chosen, rows, 8, torch.device("cpu"))

    assert name(beta=0.1) != name(beta=0.5)
    assert name(beta=0.1) == name(beta=0.1, n_epochs=2, batch_size=4, learning_rate_multiplier=3)
