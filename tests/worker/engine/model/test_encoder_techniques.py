"""What api.spec.catalog says of peft's techniques on encoders is what peft and transformers do with them."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
from pydantic import TypeAdapter
from transformers import AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from api.spec.base_model import ModelKind
from api.spec.catalog import TECHNIQUES
from api.spec.techniques import Technique
from tests.tiny_models import ENCODERS, make_encoder
from worker.engine.errors import TrainingError
from worker.engine.model.adapters import peft_config
from worker.techniques.bottleneck_families import FAMILIES as BOTTLENECK_FAMILIES

TOKENS = torch.arange(3, 12)[None]


def learns(folder: Path, technique: str) -> bool:
    """Whether every weight that is trained gets a gradient, and what is saved can be loaded."""
    network = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    asked = {"type": technique} if technique == "ia3" else {"type": technique, "tokens": 4}
    options = TypeAdapter[Technique](Technique).validate_python(asked)
    try:
        model = get_peft_model(network, peft_config(network, options, "labels"))
        model(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).logits.sum().backward()
        model.save_pretrained(folder / "adapter")
        again = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
        PeftModel.from_pretrained(again, str(folder / "adapter"))
    except (ValueError, RuntimeError, TrainingError):
        return False
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in trained)


@pytest.mark.parametrize("technique", ["prefix", "prompt", "ia3"])
@pytest.mark.parametrize("family", ENCODERS)
def test_a_technique_works_on_the_encoders_that_the_catalogue_names(
    family: str, technique: str, tmp_path: Path
) -> None:
    assert learns(make_encoder(tmp_path / family, family), technique) == (
        family in TECHNIQUES[technique].families["encoder"]
    )


def test_the_catalogue_names_the_families_that_peft_and_our_own_table_know() -> None:
    """Of peft's, those that predict the next token."""
    decoders = set(TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    encoders = set(MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    assert TECHNIQUES["ia3"].families["causal_lm"] == decoders - encoders
    kinds: tuple[ModelKind, ...] = ("causal_lm", "encoder")
    for kind in kinds:
        ours = {family for family in BOTTLENECK_FAMILIES if (family in encoders) == (kind == "encoder")}
        assert TECHNIQUES["bottleneck"].families[kind] == ours
