"""Loads an adapter in plain transformers and peft, without Attune; compares log-probs and generates answers.

    python examples/score.py BASE_FOLDER ADAPTER_FOLDER QUESTIONS.jsonl REPORT.json

QUESTIONS holds fine-tuning rows; the messages before the last one are the prompt. The adapter's logprobs.json has the
tokens of a few rows and the log-prob that the trainer's model gave to each token after the first.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

MAX_NEW_TOKENS = 64
BATCH_SIZE = 48
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "adapter", "questions", "report"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()

    trained = json.loads((options.adapter / "logprobs.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(options.adapter, padding_side="left")
    base: Any = AutoModelForCausalLM.from_pretrained(options.base, dtype=getattr(torch, trained["precision"]))
    model = PeftModel.from_pretrained(base.to(DEVICE), options.adapter).eval()

    rows = [json.loads(line) for line in options.questions.read_text().splitlines()]
    prompts = [row["messages"][:-1] for row in rows]
    with torch.inference_mode():
        differences = logprob_differences(model, trained["rows"])
        tuned_answers = answers(model, tokenizer, prompts)
        with model.disable_adapter():
            base_answers = answers(model, tokenizer, prompts)
    report = {
        "precision": trained["precision"],
        "logprob_difference": {"largest": max(differences), "mean": mean(differences)},
        "base": base_answers,
        "tuned": tuned_answers,
    }
    options.report.write_text(json.dumps(report))


def logprob_differences(model: Any, rows: list[dict[str, Any]]) -> list[float]:
    """Return the absolute differences from the trainer's log-probs, one for each token of each row."""
    differences: list[float] = []
    for row in rows:
        tokens_T = torch.tensor(row["tokens"], device=DEVICE)
        logits_TV = model(input_ids=tokens_T[None]).logits[0].float()
        logprobs_T = logits_TV[:-1].log_softmax(-1).gather(-1, tokens_T[1:, None])[:, 0].cpu()
        assert len(row["logprobs"]) == len(logprobs_T), f"{len(row['logprobs'])} log-probs of {len(tokens_T)} tokens"
        differences += (logprobs_T - torch.tensor(row["logprobs"])).abs().tolist()
    return differences


def answers(model: Any, tokenizer: Any, prompts: list[list[dict[str, str]]]) -> list[str]:
    """Return greedy answers, generated in batches of similar length."""
    texts = [tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True) for p in prompts]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    generated = [""] * len(texts)
    for start in range(0, len(order), BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        inputs = tokenizer([texts[i] for i in batch], return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = inputs.to(DEVICE)
        output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        new_tokens = output[:, inputs.input_ids.shape[1] :]
        for i, text in zip(batch, tokenizer.batch_decode(new_tokens, skip_special_tokens=True), strict=True):
            generated[i] = text.strip()
    return generated


if __name__ == "__main__":
    main()
