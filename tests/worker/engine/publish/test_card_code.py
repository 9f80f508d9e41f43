"""The code in the model card loads the published files, and the loaded model gives the trainer's outputs."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from api.spec.resolve import Labels
from tests.tiny_models import make_encoder, make_encoder_tokenizer, make_model
from tests.worker.every_family import tiny_config
from tests.worker.parity import ours
from worker.engine.publish.card import TrainingSummary
from worker.engine.publish.export import export
from worker.engine.publish.outputs import outputs_in_memory, plain_outputs

THREE = Labels(problem="single_label", names=("no", "yes", "it's {perhaps}"))
NUMBER = Labels(problem="regression")
QLORA = {"type": "qlora", "rank": 4}
BOTTLENECK = {"type": "bottleneck", "reduction_factor": 4}
CASES = [
    (ours.LORA, "supervised", None, "llama"),
    (ours.LORA, "classification", THREE, "llama"),
    (ours.LORA, "classification", THREE, "roberta"),
    (ours.LORA, "classification", NUMBER, "bert"),
    (ours.LORA, "reward", None, "llama"),
    (QLORA, "supervised", None, "llama_wide"),
    (QLORA, "classification", THREE, "llama_wide"),
    (QLORA, "classification", THREE, "bert_wide"),
    (QLORA, "classification", THREE, "roberta_wide"),
    (QLORA, "classification", THREE, "eurobert"),  # a dense layer below the head, beside the base model
    (QLORA, "reward", None, "llama_wide"),
    ({"type": "prompt", "tokens": 4}, "classification", THREE, "bert"),
    ({"type": "prefix", "tokens": 4}, "reward", None, "llama"),
    (BOTTLENECK, "supervised", None, "phi3"),
    (BOTTLENECK, "classification", THREE, "phi3"),
    (BOTTLENECK, "reward", None, "phi3"),
    (ours.FULL, "classification", THREE, "bert"),
]


@pytest.mark.parametrize(("technique", "method", "labels", "family"), CASES)
def test_the_code_in_the_card_gives_the_trainers_outputs(
    technique: dict[str, Any], method: str, labels: Labels | None, family: str, tmp_path: Path, seed: int
) -> None:
    torch.manual_seed(seed)
    base = make_base(tmp_path / "base", family)
    recipe = ours.settled(method, {}, technique).model_copy(update={"labels": labels})
    objective = ours.begin(base, tmp_path / "run", recipe)
    ours.change_weights(objective, by=0.1)
    folder = tmp_path / "model"
    folder.mkdir()
    export(objective.model, folder, base, recipe, TrainingSummary())
    rng = np.random.default_rng(seed)
    rows = ours.rows_of([(tokens, [1.0] * len(tokens)) for tokens in (ours.drawn(rng, 5, 20) for _ in range(3))])
    expected = outputs_in_memory(objective.model, recipe, rows)
    found = plain_outputs(loaded_by_card(folder, base), recipe, rows)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def make_base(folder: Path, family: str) -> Path:
    if family == "eurobert":
        AutoModel.from_config(tiny_config(family)).save_pretrained(folder)
        make_encoder_tokenizer(folder)
        return folder
    make = make_encoder if family.removesuffix("_wide") in ("bert", "roberta") else make_model
    return make(folder, family)


def loaded_by_card(folder: Path, base: Path) -> Any:
    card = (folder / "README.md").read_text()
    (code,) = re.findall(r"## Load the model\n\n```python\n(.*?)```", card, re.DOTALL)
    code = code.replace("path/to/the/base/model", str(base)).replace("path/to/this/folder", str(folder))
    names: dict[str, Any] = {}
    exec(code, names)
    for module in names["model"].modules():  # else some processors compute in bfloat16, as docs/techniques.md says
        module.support_avx512bf16_for_cpu = False
    return names["model"]
