"""TRL's trainers on tiny models: made to compute a loss, never to train."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer

from tests.worker.parity.ours import Gradients, gradients_of

TEXTS = {"prompt": "a", "chosen": "b", "rejected": "c", "completion": "b", "label": True}


def trainer(kind: Any, config: Any, base: Path, output: Path, model: Any, **options: Any) -> Any:
    """`options`: those of `config`, but for `ref_model`, `reward_funcs` and `rollout_func`, which the trainer takes."""
    passed = {name: options.pop(name) for name in ("ref_model", "reward_funcs", "rollout_func") if name in options}
    columns = options.pop("columns")
    settings = {"use_cpu": True, "report_to": "none", "bf16": False, "activation_checkpointing": False}
    arguments = config(output_dir=str(output), **settings, **options)
    rows = Dataset.from_list([{name: TEXTS[name] for name in columns}] * 2)
    tokenizer = AutoTokenizer.from_pretrained(base)
    return kind(model, args=arguments, train_dataset=rows, processing_class=tokenizer, **passed)


def loss_and_gradients(trainer: Any, *inputs: Any) -> tuple[float, Gradients]:
    """The mean over several inputs, where one is a batch."""
    total = 0.0
    for each in inputs:
        loss = trainer.compute_loss(trainer.model, dict(each)) / len(inputs)
        loss.backward()
        total += loss.item()
    return total, gradients_of(trainer.model)
