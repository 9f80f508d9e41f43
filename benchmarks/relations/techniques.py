"""Full fine-tuning, LoRA, QLoRA, prefix and bottleneck, compared on the same rows for the same steps."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit

from benchmarks.relations import bases, rows
from benchmarks.relations.results import Figures, Results
from benchmarks.relations.runs import Trained, fill_run_folder, train
from worker.engine.model.load import load_trainable


@dataclass(frozen=True)
class Variant:
    task: str
    """The function in benchmarks.relations.rows that makes the rows to train on: classified, explained or cards."""
    technique: Mapping[str, Any]
    rates: tuple[float, ...] = ()
    """Candidates for the peak learning rate. The best one is chosen on seed 0 and on rows that no figure uses."""
    rate_of: str = ""
    """The variant whose learning rate is used instead."""
    from_scratch: bool = False
    untrained: bool = False
    """Whether only the untrained weights are measured, on the held-out rows."""


VARIANTS = {
    "MiniLM full": Variant("classified", {"type": "full"}, (5e-4, 1e-3)),
    "MiniLM from scratch": Variant("classified", {"type": "full"}, (5e-4, 1e-3), from_scratch=True),
    "MiniLM bottleneck": Variant("classified", {"type": "bottleneck", "placement": "houlsby"}, (1e-2, 2e-2)),
    "full": Variant("explained", {"type": "full"}, (1e-4, 2e-4)),
    "lora": Variant("explained", {"type": "lora", "rank": 8}, (1e-3, 2e-3, 4e-3)),
    "qlora nf4": Variant("explained", {"type": "qlora", "rank": 8, "quantization": "nf4"}, rate_of="lora"),
    "qlora fp4": Variant("explained", {"type": "qlora", "rank": 8, "quantization": "fp4"}, rate_of="lora"),
    "untrained": Variant("explained", {"type": "lora", "rank": 8}, (1e-9,), untrained=True),
    "untrained nf4": Variant("explained", {"type": "qlora", "rank": 8, "quantization": "nf4"}, (1e-9,), untrained=True),
    "cards full": Variant("cards", {"type": "full"}, (1e-4, 2e-4)),
    "cards prefix": Variant("cards", {"type": "prefix", "tokens": 40}, (3e-2, 1e-1)),
}
"""All variants, in the order in which they run. Variants whose memory is compared alternate over the seeds."""
EPOCHS = {"classified": 4, "cards": 1, "explained": 1}
BATCH = {"classified": 32, "cards": 4, "explained": 8}


def measure(results: Results, scratch: Path, seed: int, only: Sequence[str]) -> None:
    for name, variant in VARIANTS.items():
        if any(part in name for part in only):
            rate = _best_rate(results, scratch, variant.rate_of or name)
            results.get_or_measure(name, seed, partial(_figures, scratch, name, seed, rate, "heldout"))


def _best_rate(results: Results, scratch: Path, name: str) -> float:
    if len(VARIANTS[name].rates) == 1:
        return VARIANTS[name].rates[0]
    losses = {}
    for rate in VARIANTS[name].rates:
        measure_rate = partial(_figures, scratch, name, 0, rate, "validation")
        losses[rate] = results.get_or_measure(f"{name} at {rate:g}", 0, measure_rate)["loss"]
    return min(losses, key=lambda rate: losses[rate])


def _train(scratch: Path, name: str, seed: int, rate: float, evaluated_on: str) -> Trained:
    variant = VARIANTS[name]
    if variant.task == "classified":
        base = bases.minilm_from_scratch(seed) if variant.from_scratch else bases.minilm()
        parts, method = rows.classified(seed), "classification"
    else:
        base, method = bases.smollm(), "supervised"
        parts = rows.cards(seed) if variant.task == "cards" else rows.explained(seed)
    folder = scratch / f"{name.replace(' ', '-')}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    hyperparameters = {"n_epochs": EPOCHS[variant.task], "batch_size": BATCH[variant.task]}
    fill_run_folder(
        folder,
        base,
        parts["train"],
        parts[evaluated_on],
        seed=seed,
        method={"type": method, method: {"hyperparameters": hyperparameters}},
        technique=dict(variant.technique),
        training={"learning_rate": rate} | ({"max_steps": 1} if variant.untrained else {}),
    )
    return train(folder)


def _figures(scratch: Path, name: str, seed: int, rate: float, evaluated_on: str) -> Figures:
    trained = _train(scratch, name, seed, rate, evaluated_on)
    last, recipe = trained.last, trained.recipe()
    figures = {
        "loss": last["full_valid_loss"],
        "accuracy": last.get("full_valid_accuracy", last.get("full_valid_mean_token_accuracy")),
        "seconds": trained.seconds,
        "peak_bytes": trained.peak_bytes,
        "published_bytes": trained.weights_bytes(),
        "steps": recipe.total_steps,
        "learning_rate": recipe.learning_rate,
        **_sizes(trained),
    }
    shutil.rmtree(trained.run)
    return figures


def _sizes(trained: Trained) -> Figures:
    """Return how many weights are trained, and how many the base has. If layers are quantized, also their bytes with
    their scales, and the bytes of the same layers in bfloat16."""
    hardware = {"precision": "bfloat16", "gradient_checkpointing": False}
    recipe, base = trained.recipe().model_copy(update=hardware), trained.run / "base"
    model = load_trainable(base, recipe, torch.device("cpu"))
    sizes = {
        "trained": sum(weight.numel() for weight in model.trained.values()),
        "parameters": json.loads((base / "attune.json").read_bytes())["parameters"],
    }
    quantized: list[Any] = [layer.weight for layer in model.network.modules() if isinstance(layer, Linear4bit)]
    if quantized:
        states = [weight.quant_state for weight in quantized]
        scales = [scale for state in states for scale in state.as_dict(packed=True).values()]
        sizes["quantised_bytes"] = sum(tensor.nbytes for tensor in [*quantized, *scales])
        sizes["bfloat16_bytes"] = sum(2 * state.shape.numel() for state in states)
    return sizes
