"""BERT, LoRA, QLoRA, prefix and bottleneck: what is trained, compared on the same rows for the same steps."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit

from benchmarks.relations import bases, rows
from benchmarks.relations.results import Figures, Results
from benchmarks.relations.runs import Trained, fill, train
from worker.engine.load import load_trainable


@dataclass(frozen=True)
class Variant:
    task: str
    """classified | cards"""
    technique: Mapping[str, Any]
    rate: float
    """Peak learning rate: the best of those tried in `python -m benchmarks.relations --sweep`."""
    tried: tuple[float, ...]
    from_scratch: bool = False


VARIANTS = {
    "MiniLM full": Variant("classified", {"type": "full"}, 5e-4, (2e-4, 5e-4)),
    "MiniLM from scratch": Variant("classified", {"type": "full"}, 5e-4, (2e-4, 5e-4), from_scratch=True),
    "MiniLM bottleneck": Variant("classified", {"type": "bottleneck", "placement": "houlsby"}, 5e-3, (2e-3, 5e-3)),
    "full": Variant("cards", {"type": "full"}, 2e-4, (1e-4, 2e-4)),
    "lora": Variant("cards", {"type": "lora", "rank": 8}, 2e-3, (1e-3, 2e-3)),
    "qlora nf4": Variant("cards", {"type": "qlora", "rank": 8, "quantisation": "nf4"}, 2e-3, ()),
    "qlora fp4": Variant("cards", {"type": "qlora", "rank": 8, "quantisation": "fp4"}, 2e-3, ()),
    "prefix": Variant("cards", {"type": "prefix", "tokens": 40}, 3e-2, (3e-2, 1e-1)),
}
"""The order in which they run, so that those whose memory is compared take turns over the seeds."""
EPOCHS = {"classified": 2, "cards": 1}
BATCH = {"classified": 32, "cards": 4}


def sweep(results: Results, scratch: Path, only: str) -> None:
    """Seed 0, judged on rows that no table is made from."""
    for name, variant in VARIANTS.items():
        if only in name:
            for rate in variant.tried:
                of_rate = partial(_figures, scratch, name, 0, rate, "validation")
                results.measured(f"sweep {name} {rate:g}", 0, of_rate)


def measure(results: Results, scratch: Path, seed: int, only: str) -> None:
    for name, variant in VARIANTS.items():
        if only in name:
            results.measured(name, seed, partial(_figures, scratch, name, seed, variant.rate, "heldout"))


def _train(scratch: Path, name: str, seed: int, rate: float, judged_on: str) -> Trained:
    variant = VARIANTS[name]
    if variant.task == "cards":
        base, parts, method = bases.smollm(), rows.cards(seed), "supervised"
    else:
        base = bases.minilm_from_scratch(seed) if variant.from_scratch else bases.minilm()
        parts, method = rows.classified(seed), "classification"
    folder = scratch / f"{name.replace(' ', '-')}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    hyperparameters = {"n_epochs": EPOCHS[variant.task], "batch_size": BATCH[variant.task]}
    fill(
        folder,
        base,
        parts["train"],
        parts[judged_on],
        seed=seed,
        method={"type": method, method: {"hyperparameters": hyperparameters}},
        technique=dict(variant.technique),
        training={"learning_rate": rate},
    )
    return train(folder)


def _figures(scratch: Path, name: str, seed: int, rate: float, judged_on: str) -> Figures:
    trained = _train(scratch, name, seed, rate, judged_on)
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
    """Weights of the whole model and those that are trained; bytes of the linear layers in four bits, with their
    scales, and as bfloat16 would have them."""
    recipe, base = trained.recipe().model_copy(update={"precision": "bfloat16"}), trained.run / "base"
    model = load_trainable(base, recipe, torch.device("cpu"))
    sizes = {
        "trained": sum(each.numel() for each in model.trained.values()),
        "parameters": json.loads((base / "attune.json").read_bytes())["parameters"],
    }
    quantised: list[Any] = [each.weight for each in model.network.modules() if isinstance(each, Linear4bit)]
    if quantised:
        states = [weight.quant_state for weight in quantised]
        scales = [scale for state in states for scale in state.as_dict(packed=True).values()]
        sizes["quantised_bytes"] = sum(each.nbytes for each in [*quantised, *scales])
        sizes["bfloat16_bytes"] = sum(2 * state.shape.numel() for state in states)
    return sizes
