"""LLaMA-Factory: `python -m benchmarks.training.peers.with_llama_factory REQUEST`.

It runs as `llamafactory-cli train` runs it, on rows that are tokens already.
"""

from pathlib import Path
from typing import Any

import benchmarks.training.peers.without_sound  # noqa: F401

# isort: split
from datasets import Dataset, DatasetDict
from llamafactory.train.tuner import run_exp

from benchmarks.training.peers.recorder import Request, record
from benchmarks.training.peers.rows import sequences


def main() -> None:
    request = Request()
    record(request)
    tokenized = Path(request.output) / "tokenized"
    rows = Dataset.from_list([columns(row) for row in request.rows()])
    DatasetDict({"train": rows}).save_to_disk(tokenized)
    arguments = request.arguments() | {
        "stage": "dpo" if request.kind == "dpo" else "sft",
        "do_train": True,
        "model_name_or_path": request.base,
        "template": "chatml",
        "dataset": "not read",  # required, although the rows are tokens
        "tokenized_path": str(tokenized),
        "cutoff_len": request.max_length,
        "finetuning_type": "lora",
        "lora_rank": request.rank,
        "lora_alpha": request.alpha,
        "lora_target": "all",
        "output_dir": request.model,
        "disable_shuffling": True,
    }
    if request.quantized:
        arguments |= {"quantization_bit": 4}
    run_exp(arguments)


def columns(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row as LLaMA-Factory's own processors would return it."""
    made: dict[str, Any] = {"images": None, "videos": None, "audios": None}
    for prefix, (ids, labels) in sequences(row).items():
        made |= {f"{prefix}input_ids": ids, f"{prefix}labels": labels, f"{prefix}attention_mask": [1] * len(ids)}
    return made


if __name__ == "__main__":
    main()
