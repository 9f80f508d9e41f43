"""TRL: `python -m benchmarks.training.peers.with_trl REQUEST`.

At its best: weights in bfloat16, no recomputation, rows of similar lengths together, and DPO's reference computed once.
Packing is left out, because without FlashAttention the packed rows would see each other.
"""

from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import BitsAndBytesConfig
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from benchmarks.training.peers.recorder import Request, record


class PreparedDPOTrainer(DPOTrainer):
    """Trains on rows that are tokens already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset


def main() -> None:
    request = Request()
    record(request)
    trainer = TRAINERS[request.kind](request)
    trainer.train()
    trainer.save_model(request.model)


def supervised(request: Request) -> SFTTrainer:
    order = "group_by_length" if request.best else "sequential"
    arguments = common(request) | {"max_length": request.max_length, "train_sampling_strategy": order}
    return SFTTrainer(args=SFTConfig(**arguments), **parts(request))


def dpo(request: Request) -> DPOTrainer:
    arguments = common(request) | {"max_length": request.max_length, "train_sampling_strategy": "sequential"}
    if request.best:
        arguments |= {"precompute_ref_log_probs": True, "precompute_ref_batch_size": request.batch_size}
    return PreparedDPOTrainer(args=DPOConfig(**arguments), **parts(request))


def grpo(request: Request) -> GRPOTrainer:
    arguments = common(request) | {
        "per_device_train_batch_size": request.batch_size * request.group_size,
        "num_generations": request.group_size,
        "max_completion_length": request.answer_tokens,
        "beta": 0.0,
        "shuffle_dataset": False,
    }

    def contains(completions: Any, **_: Any) -> list[float | None]:
        return [float(request.rewarded in completion[0]["content"].lower()) for completion in completions]

    return GRPOTrainer(args=GRPOConfig(**arguments), reward_funcs=contains, **parts(request))


def common(request: Request) -> dict[str, Any]:
    weights: dict[str, Any] = {}
    if request.best:
        weights["dtype"] = "bfloat16"
    if request.quantized:
        weights["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    arguments = request.arguments() | {"model_init_kwargs": weights}
    return arguments | ({"gradient_checkpointing": False} if request.best else {})


def parts(request: Request) -> dict[str, Any]:
    lora = LoraConfig(r=request.rank, lora_alpha=request.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    return {"model": request.base, "train_dataset": Dataset.from_list(request.rows()), "peft_config": lora}


TRAINERS = {"supervised": supervised, "dpo": dpo, "grpo": grpo}

if __name__ == "__main__":
    main()
