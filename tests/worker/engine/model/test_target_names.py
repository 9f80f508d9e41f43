"""Which layers a technique's patterns name, in every family, and that peft is given names alone."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from peft.utils.other import get_pattern_key
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from api.spec.techniques.dora import Dora
from api.spec.techniques.lora import Lora
from tests.hostile import CATASTROPHIC, UNUSABLE
from tests.tiny_models import ENCODERS, FAMILIES, MIXTURES, tiny_config
from worker.engine.errors import TrainingError
from worker.engine.model.adapters import peft_config
from worker.engine.model.target_modules import PLAIN, not_chosen, published_config

PATTERN = r".*\.(0|1)\..*(q_proj|query|c_attn|qkv_proj|q_lin|Wqkv|dense|fc1|up_proj|down_proj|Wi|query_key_value)"
FIRST_LAYER = r".*\.0\..*"


def network_of(family: str) -> Any:
    with torch.device("meta"):
        auto: Any = AutoModelForCausalLM if family in FAMILIES else AutoModelForSequenceClassification
        return auto.from_config(tiny_config(family))


def output_of(family: str) -> str:
    return "tokens" if family in FAMILIES else "labels"


@pytest.mark.parametrize("family", [*sorted(FAMILIES.keys() - MIXTURES), *ENCODERS])
def test_peft_adapts_what_the_patterns_say_and_is_given_names(family: str) -> None:
    network = network_of(family)
    layers = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)]
    expected = {name for name in layers if re.fullmatch(PATTERN, name) and not name.startswith("classifier")}
    technique = Lora(rank=4, target_modules=PATTERN, rank_pattern={FIRST_LAYER: 2}, alpha_pattern={FIRST_LAYER: 5})
    config = peft_config(network, technique, output_of(family))
    assert not isinstance(config.target_modules, str)
    model = get_peft_model(network, config).get_base_model()
    adapted = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert expected
    assert adapted.keys() == expected
    for name, module in adapted.items():
        first = re.fullmatch(FIRST_LAYER, name) is not None
        rank, alpha = (2, 5) if first else (4, 8)
        assert (module.r["default"], module.scaling["default"]) == (rank, alpha / rank), name


@pytest.mark.parametrize("technique", [Lora, Dora])
@pytest.mark.parametrize("pattern", CATASTROPHIC)
def test_a_catastrophic_pattern_ends_the_job_at_once(pattern: str, technique: type[Lora]) -> None:
    network = network_of("llama")
    for fields in ({"target_modules": pattern}, {"rank_pattern": {pattern: 2}}, {"alpha_pattern": {pattern: 2.0}}):
        with pytest.raises(TrainingError, match=f"technique.{next(iter(fields))}: .* (matches|fits) none of"):
            peft_config(network, technique.model_validate(fields), "tokens")


@pytest.mark.parametrize("pattern", UNUSABLE)
def test_an_older_jobs_pattern_that_is_read_no_more_is_the_recipes_fault(pattern: str) -> None:
    with pytest.raises(TrainingError, match=r"technique\.target_modules: ") as caught:
        peft_config(network_of("llama"), Lora(target_modules=pattern), "tokens")
    assert caught.value.reason == "invalid_recipe"


def test_names_alone_are_published_as_they_were_given() -> None:
    technique = Lora(rank_pattern={"up_proj": 2, "0.self_attn.q_proj": 3})
    config = peft_config(network_of("llama"), technique, "tokens")
    assert (config.rank_pattern, config.target_modules) == ({"up_proj": 2, "0.self_attn.q_proj": 3}, "all-linear")


class TwoTowers(torch.nn.Module):
    """The name of one layer is the end of another's."""

    def __init__(self) -> None:
        super().__init__()
        self.block = torch.nn.ModuleDict({"q": torch.nn.Linear(4, 4)})
        self.tower = torch.nn.ModuleDict({"block": torch.nn.ModuleDict({"q": torch.nn.Linear(4, 4)})})


def test_a_layer_whose_name_ends_in_a_chosen_one_is_left_alone() -> None:
    network: Any = TwoTowers()
    config = LoraConfig(target_modules=["block.q"], exclude_modules=not_chosen(network, ["block.q"]))
    model = get_peft_model(network, config).get_base_model()
    assert [name for name, module in model.named_modules() if hasattr(module, "lora_A")] == ["block.q"]


@pytest.mark.parametrize("field", ["target_modules", "exclude_modules", "rank_pattern"])
def test_an_adapters_own_patterns_never_reach_peft(field: str, tmp_path: Path) -> None:
    network = AutoModelForCausalLM.from_config(tiny_config("llama"))
    plain = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(network, plain).save_pretrained(str(tmp_path))
    written = tmp_path / "adapter_config.json"
    pattern = CATASTROPHIC[0]
    value: Any = {pattern: 4} if field == "rank_pattern" else pattern
    written.write_text(json.dumps(json.loads(written.read_text()) | {field: value}))
    network = network_of("llama")
    config = published_config(tmp_path, network)
    assert config.rank_pattern == {}
    assert not isinstance(config.exclude_modules, str)
    assert all(PLAIN.fullmatch(name) for name in config.target_modules)
    model = get_peft_model(network, config).get_base_model()
    assert all(name.endswith("q_proj") for name, module in model.named_modules() if hasattr(module, "lora_A"))


@pytest.mark.parametrize("longer_first", [True, False])
def test_ranks_of_overlapping_patterns_are_those_of_the_first_even_after_peft_has_sorted_them(
    longer_first: bool, tmp_path: Path
) -> None:
    network = network_of("llama")
    given = {"down_proj": 8, "layers.0.mlp.down_proj": 32}
    if longer_first:
        given = dict(reversed(given.items()))
    peft_config(network, Lora(rank=4, rank_pattern=given), "tokens").save_pretrained(str(tmp_path))
    saved: Any = PeftConfig.from_pretrained(str(tmp_path))
    layers = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)]
    for name in layers:
        expected = next((rank for pattern, rank in given.items() if name.endswith(f".{pattern}")), 4)
        assert saved.rank_pattern.get(get_pattern_key(saved.rank_pattern.keys(), name), 4) == expected, name
