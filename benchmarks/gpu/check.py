"""On a GPU: is the packed path right there, does a resumed run repeat itself, and how fast is a step?

Random models only, so nothing has to be downloaded: tiny ones of every packed family for the first two questions, a
Llama of 1.2 billion weights for the third. `--device cpu --small` tries the script itself on a machine without a GPU.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from api.recipe import Recipe, ResolvedRecipe, resolve
from tests.tiny_models import make_model
from worker.arrays import Rows
from worker.engine.batches import Layout, micro_batches, total_weight
from worker.engine.checkpoint import Progress
from worker.engine.families import PACKED_FAMILIES
from worker.engine.load import load_trainable
from worker.engine.loop import Loop
from worker.engine.model import TrainableModel
from worker.engine.optimizer import adamw
from worker.methods import METHODS, Setting
from worker.methods.supervised import loss as supervised_loss

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    device = torch.device(options.device)
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name() if device.type == 'cuda' else 'cpu'}")
    with tempfile.TemporaryDirectory() as folder:
        parity(Path(folder), device)
        speed(Path(folder), device, small=options.small)


def random_rows(lengths: list[int], vocabulary: int) -> Rows:
    """Rows of random tokens, the second half of each supervised."""
    ends = np.cumsum(lengths)
    tokens = np.random.default_rng(0).integers(3, vocabulary, ends[-1]).astype(np.int32)
    weights = np.concatenate([np.arange(length) >= length // 2 for length in lengths]).astype(np.float32)
    return Rows(tokens, weights, ends - np.array(lengths), ends)


def recipe_for(technique: str, rows: Rows, precision: str, budget: int, *, recompute: bool = False) -> ResolvedRecipe:
    body = {
        "model": "base",
        "training_file": "file-x",
        "technique": {"type": technique},
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 50, "batch_size": len(rows)}}},
    }
    counts = {"max_length": int(rows.lengths.max()), "train_rows": len(rows), "validation_rows": 0}
    resolved = resolve(Recipe.model_validate(body), job_id="gpu", seed=1, **counts)
    hardware = {"precision": precision, "micro_batch_tokens": budget, "gradient_checkpointing": recompute}
    return resolved.model_copy(update=hardware)


def parity(folder: Path, device: torch.device) -> None:
    """Loss and gradients of a packed batch against the same examples one by one, on the same device."""
    print("\nfamily     precision  |loss difference|  worst ‖Δ‖/‖g‖   (packed against one by one)")
    rows = random_rows([5, 31, 17, 8, 24, 3], 250)
    for family in sorted(PACKED_FAMILIES):
        base = make_model(folder / family, family=family, seed=0)
        for precision in ("float32", "bfloat16"):
            model = load_trainable(base, recipe_for("full", rows, precision, 4096), device)
            packed, packed_gradients = gradients(model, rows, model.layout)
            alone, gradients_alone = gradients(model, rows, Layout(packed=model.layout.packed, alone=True))
            worst = max(
                float((mine - theirs).norm() / theirs.norm().clamp_min(1e-12))
                for mine, theirs in zip(packed_gradients, gradients_alone, strict=True)
            )
            print(f"{family:10} {precision:9}  {abs(packed - alone):17.2e}  {worst:14.2e}", flush=True)


def gradients(model: TrainableModel, rows: Rows, layout: Layout) -> tuple[float, list[torch.Tensor]]:
    weight, total = total_weight(rows), 0.0
    parameters = [*model.trained.values(), *model.masters.values()]  # the gradient is with the master, if there is one
    for parameter in parameters:
        parameter.grad = None
    for batch in micro_batches(rows, 4096, layout, model.device):
        scores = model.token_scores(batch)
        loss, _ = supervised_loss(scores.learnt, scores.hits, batch.weights, weight)
        loss.backward()
        total += loss.item()
    return total, [each.grad.float().clone() for each in parameters if each.grad is not None]


def speed(folder: Path, device: torch.device, *, small: bool) -> None:
    """Tokens a second and peak memory, the variants in turns."""
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2} if small else {}
    config = LlamaConfig(
        **({"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16} | size),
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=512 if small else 128_256,
        tie_word_embeddings=True,
    )
    base = folder / "large"
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(base)
    lengths = [16] * 4 if small else [int(length) for length in np.linspace(64, 2048, 32)]
    rows = random_rows(lengths, 500)
    variants = [(technique, budget) for technique in ("lora", "full") for budget in (4096, 16_384)]
    print(f"\n{len(rows)} rows, {sum(lengths)} tokens a step\ntechnique  micro-batch  tokens/s  peak GiB")
    for technique, budget in variants:
        recipe = recipe_for(technique, rows, "bfloat16", budget)
        model = load_trainable(base, recipe, device)
        objective = METHODS["supervised"](Setting(recipe, base, model, print))
        progress, seconds = Progress(micro_batch_tokens=budget), []
        loop = Loop(recipe, model, objective, adamw(model.masters, recipe), rows, progress, print)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(ROUNDS + 1):
            began = time.perf_counter()
            loop.step()
            seconds.append(time.perf_counter() - began)
        peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
        rate = sum(lengths) / statistics.median(seconds[1:])
        print(f"{technique:9}  {budget:11}  {rate:8.0f}  {peak:8.1f}", flush=True)
        model.release()
        del model, objective, loop


if __name__ == "__main__":
    main()
