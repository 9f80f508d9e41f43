"""The loss of a saved adapter on the held-out rows: `python -m benchmarks.training.score REQUEST`.

One program scores every contestant's adapter, with plain transformers and peft in float32.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from benchmarks.training.prepared import Prepared, read_rows
from benchmarks.training.runs import Failed
from benchmarks.training.workloads import DPO_BETA, Row


def held_out_loss(prepared: Prepared, adapter: Path, environment: dict[str, str]) -> float:
    """Return the loss on the held-out rows, from a process of its own. In nats: per supervised token, per text, or per
    pair. Raise Failed if the process fails."""
    request = {
        "base": str(prepared.base),
        "adapter": str(adapter),
        "rows": str(prepared.folder / "peer-heldout.jsonl"),
        "kind": prepared.workload.kind,
        "labels": len(prepared.labels.names) if prepared.labels else None,
    }
    command = [sys.executable, "-m", "benchmarks.training.score", json.dumps(request)]
    done = subprocess.run(command, env=environment, capture_output=True, check=False, text=True)
    if done.returncode != 0:
        raise Failed(f"its adapter could not be scored: {done.stderr.strip()[-200:]}")
    return float(done.stdout.splitlines()[-1])


@torch.inference_mode()
def main() -> None:
    request = json.loads(sys.argv[1])
    rows = read_rows(Path(request["rows"]))
    if request["kind"] == "classification":
        base: Any = AutoModelForSequenceClassification.from_pretrained(
            request["base"], num_labels=request["labels"], dtype=torch.float32
        )
    else:
        base = AutoModelForCausalLM.from_pretrained(request["base"], dtype=torch.float32)
    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")  # of the rows' tensors
    model = PeftModel.from_pretrained(base, request["adapter"]).to(torch.get_default_device()).eval()
    losses = {"supervised": supervised, "classification": classification, "dpo": dpo}[request["kind"]](model, rows)
    sums, counts = zip(*losses, strict=True)
    print(sum(sums) / sum(counts))


def supervised(model: Any, rows: list[Row]) -> Iterator[tuple[float, int]]:
    """Yield the summed loss of each row and its number of supervised tokens."""
    for row in rows:
        labels = torch.tensor(row["labels"])[1:]
        logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
        yield float(functional.cross_entropy(logits, labels, reduction="sum")), int((labels >= 0).sum())


def classification(model: Any, rows: list[Row]) -> Iterator[tuple[float, int]]:
    for row in rows:
        logits = model(torch.tensor([row["input_ids"]])).logits
        yield float(functional.cross_entropy(logits, torch.tensor([row["labels"]]))), 1


def dpo(model: Any, rows: list[Row]) -> Iterator[tuple[float, int]]:
    """Yield -log σ(β m) of each pair, with m the margin of the log-probability ratios to the base model."""
    for row in rows:
        sides = [(row["prompt_ids"], row[f"{side}_ids"]) for side in ("chosen", "rejected")]
        tuned = [_logprob(model, *side) for side in sides]
        with model.disable_adapter():
            reference = [_logprob(model, *side) for side in sides]
        margin = (tuned[0] - reference[0]) - (tuned[1] - reference[1])
        yield float(-functional.logsigmoid(DPO_BETA * margin)), 1


def _logprob(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return -functional.cross_entropy(logits, torch.tensor(answer), reduction="sum")


if __name__ == "__main__":
    main()
