"""A program: loads what runs published, as their users would, and prints how far it is from what the trainer said.

usage: python reload_program.py RUN_DIR…  →  {"run": largest difference, …} on the last line
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BitsAndBytesConfig


def load(run: Path, recipe: dict[str, Any]) -> Any:
    technique, output = recipe["technique"], recipe["method"]["type"]
    kind: Any = AutoModelForCausalLM
    arguments: dict[str, Any] = {"dtype": torch.float32}
    if output in ("classification", "reward"):
        kind = AutoModelForSequenceClassification
        arguments |= {"num_labels": 2 if output == "classification" else 1}
    folder, base = run / "out" / "model", (run / "base").resolve()
    if technique["type"] == "full":
        return kind.from_pretrained(folder, dtype=torch.float32)
    if technique["type"] == "qlora":
        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=technique["quantization"],
            bnb_4bit_use_double_quant=technique["double_quantization"],
            bnb_4bit_compute_dtype=torch.float32,
            llm_int8_skip_modules=["lm_head", "score", "classifier"],
        )
    network = kind.from_pretrained(base, **arguments)
    for module in network.modules():  # tiny models have dropout, which eval switches off, too
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        # On some processors bitsandbytes computes in bfloat16 in evaluation mode, whatever it is asked for.
        module.support_avx512bf16_for_cpu = False
    if technique["type"] == "bottleneck":
        from worker.techniques.bottleneck import load_bottleneck  # noqa: PLC0415  (the only part of ours)

        return load_bottleneck(network, folder)
    return PeftModel.from_pretrained(network, str(folder))


@torch.no_grad()
def difference(run: Path) -> float:
    recipe = json.loads((run / "recipe.json").read_bytes())
    model = load(run, recipe).eval()
    worst = 0.0
    for row in json.loads((run / "out" / "model" / "logprobs.json").read_bytes())["rows"]:
        tokens = torch.tensor(row["tokens"])
        logits = model(input_ids=tokens[None], attention_mask=torch.ones_like(tokens)[None]).logits[0].float()
        if "logprobs" in row:
            logits = logits[-len(tokens) :].log_softmax(-1)[:-1].gather(1, tokens[1:, None])[:, 0]
        worst = max(worst, float((logits - torch.tensor(row.get("logprobs", row.get("scores")))).abs().max()))
    return worst


if __name__ == "__main__":
    print(json.dumps({Path(run).name: difference(Path(run)) for run in sys.argv[1:]}))
