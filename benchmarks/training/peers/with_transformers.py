"""transformers' own Trainer with peft: `python -m benchmarks.training.peers.with_transformers REQUEST`."""

from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from benchmarks.training.peers.recorder import Request, record


def main() -> None:
    request = Request()
    record(request)
    tokenizer = AutoTokenizer.from_pretrained(request.base)
    classifies = request.kind == "classification"
    trainer = Trainer(
        model=get_peft_model(classifier(request) if classifies else language_model(request), adapter(request)),
        args=TrainingArguments(**request.arguments(), train_sampling_strategy="sequential"),
        train_dataset=Dataset.from_list(request.rows()),
        data_collator=DataCollatorWithPadding(tokenizer) if classifies else DataCollatorForSeq2Seq(tokenizer),
    )
    trainer.train()
    trainer.save_model(request.model)


def language_model(request: Request) -> Any:
    if not request.quantized:
        return AutoModelForCausalLM.from_pretrained(request.base)
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(request.base, quantization_config=four_bits)
    return prepare_model_for_kbit_training(model)


def classifier(request: Request) -> Any:
    torch.manual_seed(request.seed)  # the head's weights
    return AutoModelForSequenceClassification.from_pretrained(request.base, num_labels=request.labels)


def adapter(request: Request) -> LoraConfig:
    task = "SEQ_CLS" if request.kind == "classification" else "CAUSAL_LM"
    return LoraConfig(r=request.rank, lora_alpha=request.alpha, target_modules="all-linear", task_type=task)


if __name__ == "__main__":
    main()
