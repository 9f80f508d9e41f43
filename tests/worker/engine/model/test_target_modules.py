"""Layers that a technique names: found, or refused in the same words when a job is made and when it trains."""

import warnings
from typing import Any, cast

import pytest
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from api.estimate.shapes import require_layers, trained_parameters
from api.spec.base_model import BaseModelFacts
from api.spec.methods.classification import Classification
from api.spec.methods.supervised import Supervised
from api.spec.target_modules import NoTargetModules
from api.spec.techniques import TechniqueBase
from api.spec.techniques.dora import Dora
from api.spec.techniques.ia3 import Ia3
from api.spec.techniques.lora import Lora
from api.spec.techniques.qlora import Qlora
from tests.tiny_models import ENCODERS, FAMILIES, tiny_config
from worker.bases.shapes import shapes_of
from worker.engine.errors import TrainingError
from worker.engine.model.adapters import peft_config


def facts_of(config: Any) -> BaseModelFacts:
    return cast(BaseModelFacts, {"parameters": 0, "layers": 2, "hidden_size": 32, "shapes": shapes_of(config)})


def refusals(family: str, technique: TechniqueBase) -> tuple[NoTargetModules, TrainingError]:
    """(at create, by the trainer)"""
    config = tiny_config(family)
    labelled = family in ENCODERS
    with pytest.raises(NoTargetModules) as refused:
        require_layers(technique, Classification() if labelled else Supervised(), facts_of(config))
    auto: Any = AutoModelForSequenceClassification if labelled else AutoModelForCausalLM
    with pytest.raises(TrainingError) as failed:
        peft_config(auto.from_config(config), technique, "labels" if labelled else "tokens")
    return refused.value, failed.value


QUERY = dict.fromkeys(FAMILIES, "q_proj") | {
    "gpt2": "c_attn", "phi3": "qkv_proj", "bert": "query", "roberta": "query", "xlm-roberta": "query",
    "electra": "query", "deberta-v2": "query_proj", "distilbert": "q_lin", "modernbert": "Wqkv",
}  # fmt: skip


@pytest.mark.parametrize("family", [*FAMILIES, *ENCODERS])
@pytest.mark.parametrize(
    ("kind", "wrong"),
    [(Lora, "W_pack"), (Dora, "norm"), (Qlora, "self_attn"), (Ia3, "layers.0.q_proj"), (Ia3, "layers")],
)
def test_a_name_without_a_layer_is_refused_at_create_as_by_the_trainer(
    family: str, kind: type[Lora | Ia3], wrong: str
) -> None:
    technique = kind(target_modules=[QUERY[family], wrong])
    refused, failed = refusals(family, technique)
    assert refused.param == "technique.target_modules"
    assert f"called {wrong}." in str(refused)
    assert QUERY[family] in str(refused)  # it lists those that there are
    assert str(refused) in failed.message


@pytest.mark.parametrize("family", [*FAMILIES, *ENCODERS])
def test_an_expression_that_matches_no_layer_is_refused(family: str) -> None:
    refused, failed = refusals(family, Lora(target_modules=r".*\.(W_pack|norm|self_attn)"))
    assert "matches none of" in str(refused)
    assert str(refused) in failed.message


@pytest.mark.parametrize("family", [*FAMILIES, *ENCODERS])
@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_fits_no_adapted_layer_is_refused(family: str, field: str) -> None:
    """Layers that get no update have no rank: peft passes such a pattern over with a line in its log."""
    body = {"target_modules": [QUERY[family]], field: {"(embed|word).*": 2}}
    refused, failed = refusals(family, Lora.model_validate(body))
    assert refused.param == f"technique.{field}"
    assert str(refused) in failed.message


@pytest.mark.parametrize("family", [name for name in FAMILIES if tiny_config(name).tie_word_embeddings])
@pytest.mark.parametrize("targets", [["lm_head"], r".*(proj|c_attn|lm_head)", ".*"])
def test_a_head_that_shares_the_embeddings_weights_is_refused(family: str, targets: Any) -> None:
    refused, failed = refusals(family, Lora(target_modules=targets))
    assert "lm_head shares the weights of the input embeddings" in str(refused)
    assert str(refused) in failed.message


def test_a_head_is_known_to_be_tied_in_a_base_that_was_added_before_that_was_noted() -> None:
    facts = facts_of(tiny_config("llama"))
    facts["shapes"]["layers"]["lm_head"][0] = "head"
    with pytest.raises(NoTargetModules, match="shares the weights of the input embeddings"):
        require_layers(Lora(target_modules=["lm_head"]), Supervised(), facts)


def test_a_head_of_its_own_is_adapted() -> None:
    config = AutoConfig.for_model(**tiny_config("llama").to_dict() | {"tie_word_embeddings": False})
    technique = Lora(target_modules=["lm_head"])
    require_layers(technique, Supervised(), facts_of(config))
    assert trained(AutoModelForCausalLM.from_config(config), technique, "tokens") == 16 * (32 + config.vocab_size)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_ia3_refuses_embeddings_and_feed_forward_layers_that_it_does_not_scale(family: str) -> None:
    for body, field in (
        ({"target_modules": ["k_proj", "embed_tokens"]}, "target_modules"),
        ({"target_modules": ["k_proj"], "feedforward_modules": ["down_proj"]}, "feedforward_modules"),
        ({"feedforward_modules": ["c_fc"]}, "feedforward_modules"),
    ):
        refused, failed = refusals(family, Ia3.model_validate(body))
        assert refused.param == f"technique.{field}"
        assert str(refused) in failed.message


@pytest.mark.parametrize(
    ("family", "technique"),
    [
        ("llama", Lora(target_modules=["all-linear"])),
        ("llama", Lora(target_modules=r"model\.layers\.1\..*")),  # matches blocks and norms besides
        ("llama", Lora(target_modules=["layers.0.mlp.up_proj", "v_proj"])),
        ("gpt2", Lora(target_modules=["c_attn"], rank_pattern={"h.1.attn.c_attn": 3})),
        ("falcon_h1", Lora(target_modules=".*mamba.*")),  # conv1d and out_proj cannot be adapted
        ("phi3", Ia3(target_modules=["qkv_proj", "down_proj"])),  # of a family that peft does not know
        ("phi3", Ia3(target_modules=["qkv_proj", "down_proj"], feedforward_modules=["down_proj"])),
        *((family, Lora()) for family in ENCODERS),
        ("bert", Lora(target_modules=r".*\.(0|1)\.attention\..*")),
        ("modernbert", Dora(target_modules=".*")),
    ],
)
def test_exactly_the_named_layers_that_can_be_adapted_are(family: str, technique: Lora | Ia3) -> None:
    config = tiny_config(family)
    labelled = family in ENCODERS
    method: Any = Classification() if labelled else Supervised()
    auto: Any = AutoModelForSequenceClassification if labelled else AutoModelForCausalLM
    found = trained(auto.from_config(config), technique, method.output)
    assert found == trained_parameters(technique, method, facts_of(config), labels=2)


def trained(network: Any, technique: Any, output: str) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(network, peft_config(network, technique, output))
    return sum(each.numel() for each in model.parameters() if each.requires_grad)
