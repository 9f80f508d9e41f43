"""ms-swift: `python -m benchmarks.training.peers.with_ms_swift REQUEST`.

Its pipelines run as `swift sft` and `swift rlhf` run them, on rows that are tokens already.
"""

from pathlib import Path
from typing import Any

from datasets import Dataset
from swift.pipelines.train.rlhf import SwiftRLHF
from swift.pipelines.train.sft import SwiftSft

from benchmarks.training.peers.recorder import Request, record
from benchmarks.training.peers.rows import sequences


def main() -> None:
    request = Request()
    record(request)
    pipeline = {"dpo": SwiftRLHF}.get(request.kind, SwiftSft)
    rows = Dataset.from_list([columns(row) for row in request.rows()])

    class Prepared(pipeline):  # type: ignore[misc, valid-type]
        def _prepare_dataset(self) -> list[Any]:
            return [rows, None]

    last = Prepared(command_line(request)).main()["last_model_checkpoint"]
    Path(request.model).symlink_to(last)


def columns(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row as the pipeline's own template encodes it."""
    made: dict[str, Any] = {}
    for prefix, (ids, labels) in sequences(row).items():
        made |= {f"{prefix}input_ids": ids, f"{prefix}labels": labels, f"{prefix}length": len(ids)}
    return made


def command_line(request: Request) -> list[str]:
    arguments = request.arguments() | {
        "model": request.base,
        "model_type": "bert" if request.kind == "classification" else "llama",
        "template": "dummy" if request.kind == "classification" else "chatml",
        "dataset": request.fields["rows"],
        "tuner_type": "lora",
        "lora_rank": request.rank,
        "lora_alpha": request.alpha,
        "lora_dropout": 0.0,
        "target_modules": "all-linear",
        "torch_dtype": "bfloat16",
        "max_length": request.max_length,
        "adam_beta2": 0.999,
        "add_version": False,
        "use_hf": True,
        "check_model": False,
        "train_dataloader_shuffle": False,
    }
    if request.kind == "classification":
        arguments |= {
            "task_type": "seq_cls",
            "num_labels": request.labels,
            "problem_type": "single_label_classification",
        }
    if request.kind == "dpo":
        arguments |= {"rlhf_type": "dpo", "beta": 0.1}
    if request.quantized:
        arguments |= {"quant_method": "bnb", "quant_bits": 4}
    return [part for name, value in arguments.items() for part in (f"--{name}", str(value))]


if __name__ == "__main__":
    main()
