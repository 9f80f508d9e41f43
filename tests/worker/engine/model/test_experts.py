"""Mixtures of experts: what is trained of them is counted, and nothing is trained or left out without a word."""

import warnings
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from api.cli.verify.tensors import check_lora_shapes, read_tensors
from api.estimate.activations import ExecutionPlan
from api.estimate.memory import peak_memory
from api.estimate.shapes import require_layers, shapes_of, trained_parameters, untrained_experts
from api.estimate.work import Base, Workload, training_work
from api.spec.base_model import BaseModelFacts
from api.spec.methods.classification import Classification
from api.spec.methods.supervised import Supervised
from api.spec.recipe import Recipe
from api.spec.resolve import ResolvedRecipe, resolve
from api.spec.target_modules import NoTargetModules
from api.spec.techniques.dora import Dora
from api.spec.techniques.ia3 import Ia3
from api.spec.techniques.lora import Lora
from api.spec.techniques.qlora import Qlora
from tests.tiny_models import MIXTURES, make_model, tiny_config
from tests.worker.recorder import train_here
from tests.worker.run_folders import make_run, random_rows
from worker.bases.shapes import shapes_of as shapes_of_config
from worker.engine.errors import TrainingError
from worker.engine.model.adapters import peft_config
from worker.engine.model.load import load_trainable

FUSED = [family for family in MIXTURES if family not in ("jetmoe", "llama4_text")]
"""Those of whose experts transformers keeps one tensor that it computes in the way that all of them share."""
ROWS = Workload(rows=100, width=1, tokens=20_000, supervised=10_000, lengths=(200,))


def facts_of(config: Any) -> BaseModelFacts:
    return cast(
        BaseModelFacts,
        {"parameters": 0, "layers": 2, "hidden_size": config.hidden_size, "shapes": shapes_of_config(config)},
    )


def adapted(family: str, technique: Any) -> dict[str, torch.nn.Parameter]:
    network = AutoModelForCausalLM.from_config(tiny_config(family))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(network, peft_config(network, technique, "tokens"))
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


@pytest.mark.parametrize("family", MIXTURES)
@pytest.mark.parametrize(
    "technique",
    [
        Lora(rank=4),
        Lora(rank=4, target_modules=["q_proj", "kv_proj", "k_proj", "o_proj"]),
        Lora(rank=4, rank_pattern={"layers.*(down|gate_up)_proj": 2, "o_proj|output_linear|kv_proj": 3}),
        Ia3(target_modules=["o_proj"]),
    ],
    ids=["all-linear", "attention", "ranks", "ia3"],
)
def test_what_is_counted_is_what_peft_trains_and_no_router_is(family: str, technique: Any) -> None:
    if isinstance(technique, Lora) and isinstance(technique.target_modules, list):
        names = {name.rpartition(".")[2] for name in facts_of(tiny_config(family))["shapes"]["layers"]}
        technique = technique.model_copy(
            update={"target_modules": [name for name in technique.target_modules if name in names] or ["kv_proj"]}
        )
    if family == "jetmoe" and not (isinstance(technique, Lora) and technique.target_modules == "all-linear"):
        pytest.skip("its attention is a mixture of experts, too")
    if family == "jetmoe" and technique.rank_pattern:
        pytest.skip("it has one linear layer")
    weights = adapted(family, technique)
    expected = trained_parameters(technique, Supervised(), facts_of(tiny_config(family)))
    assert sum(each.numel() for each in weights.values()) == expected
    assert not [name for name in weights if "router" in name or ".gate." in name]


@pytest.mark.parametrize("family", FUSED)
def test_all_linear_is_on_every_expert_and_every_layer_beside_them(family: str) -> None:
    places = {name.partition(".lora_")[0].removeprefix("base_model.model.") for name in adapted(family, Lora(rank=4))}
    network = AutoModelForCausalLM.from_config(tiny_config(family))
    linear = {name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {place for place in places if ".experts" not in place} == {
        name for name in linear if name != "lm_head" and "router" not in name
    }
    experts = {name for name, module in network.named_modules() if hasattr(module, "is_transposed")}
    assert {place for place in places if ".experts" in place} == {
        place for name in experts for place in (name, f"{name}.base_layer")
    }


@pytest.mark.parametrize("family", MIXTURES)
def test_what_is_left_out_is_said(family: str) -> None:
    facts = facts_of(tiny_config(family))
    told = untrained_experts(Lora(), Supervised(), facts)
    assert told is not None
    assert ("router" in told) or ("gate" in told)
    left = {"jetmoe": "input_linear.weight", "llama4_text": "experts.gate_up_proj"}.get(family, "gate_up_proj")
    assert (left in told) is (family not in FUSED)
    assert untrained_experts(Lora(target_modules=["o_proj"]), Supervised(), facts) is None


def test_qlora_and_ia3_leave_out_more_and_say_so() -> None:
    facts = facts_of(tiny_config("glm4_moe"))
    told = untrained_experts(Qlora(), Supervised(), facts)
    assert told is not None
    assert "shared_experts.down_proj" in told
    with pytest.raises(NoTargetModules, match="cannot adapt"):
        require_layers(Qlora(target_modules=["shared_experts.down_proj"]), Supervised(), facts)
    scaled = untrained_experts(Ia3(), Supervised(), facts_of(tiny_config("mixtral")))
    assert scaled is not None
    assert "experts.down_proj" in scaled
    assert len(adapted("mixtral", Ia3())) == 4  # keys and values of two layers


@pytest.mark.parametrize("family", FUSED)
@pytest.mark.parametrize(
    ("technique", "param", "word"),
    [
        (Dora(), "technique.type", "'dora'"),
        (Lora(dropout=0.1), "technique.dropout", "dropout of 0.1"),
        (Lora(init="pissa"), "technique.init", "'pissa'"),
        (Lora(init="olora", target_modules=["experts.down_proj"]), "technique.init", "'olora'"),
        (Ia3(target_modules=["gate_up_proj"]), "technique.target_modules", "one tensor of all experts"),
    ],
)
def test_what_cannot_be_trained_on_experts_is_refused_at_create(
    family: str, technique: Any, param: str, word: str
) -> None:
    config = tiny_config(family)
    if family == "qwen2_moe" and isinstance(technique, Ia3):
        pytest.skip("its second layer has no experts")
    with pytest.raises(NoTargetModules) as refused:
        require_layers(technique, Supervised(), facts_of(config))
    assert refused.value.param == param
    assert word in str(refused.value)
    with pytest.raises(TrainingError) as failed:
        peft_config(AutoModelForCausalLM.from_config(config), technique, "tokens")
    assert str(refused.value) in failed.value.message


def test_dora_trains_the_layers_that_it_can_where_they_are_named() -> None:
    technique = Dora(rank=4, target_modules=["q_proj", "v_proj"])
    weights = adapted("qwen3_moe", technique)
    expected = trained_parameters(technique, Supervised(), facts_of(tiny_config("qwen3_moe")))
    assert sum(each.numel() for each in weights.values()) == expected


def test_a_router_is_trained_where_the_job_names_it() -> None:
    for family in ("qwen3_moe", "gpt_oss"):
        names = adapted(family, Lora(rank=2, target_modules=["mlp.gate" if family == "qwen3_moe" else "mlp.router"]))
        assert len(names) == 4, names


def _run(folder: Path, family: str, **technique: Any) -> Path:
    base = make_model(folder / "base", family)
    technique = {"type": "lora", "rank": 4} | technique
    options: dict[str, Any] = {"technique": technique, "training": {"max_steps": 4, "learning_rate": 1e-2}}
    return make_run(folder / "run", base, train=random_rows(12, seed=5), hardware={"merged": True}, **options)


def _trains_and_is_published(folder: Path, family: str, **technique: Any) -> Path:
    run = _run(folder, family, **technique)
    recorder = train_here(run)
    assert recorder.of("done")  # the files and the merged model say what was trained, else it fails
    weights = load_file(run / "out/model/adapter_model.safetensors")
    moved = {name for name, weight in weights.items() if "lora_B" in name and weight.abs().max() > 0}
    assert moved == {name for name in weights if "lora_B" in name}
    config: Any = LoraConfig.from_pretrained(str(run / "out/model"))
    shapes = {each.name: each.shape for each in read_tensors(run / "out/model/adapter_model.safetensors")}
    assert check_lora_shapes(shapes, config.to_dict()) == []
    assert ("loads no adapters on the tensors" in (run / "out/model/README.md").read_text()) is (family in FUSED)
    return run


@pytest.mark.parametrize("family", ["glm4_moe", "gpt_oss"])
def test_an_adapter_on_experts_is_published_plainly_and_merged(family: str, tmp_path: Path) -> None:
    _trains_and_is_published(tmp_path, family)


@pytest.mark.pairs
@pytest.mark.parametrize("family", [each for each in MIXTURES if each not in ("glm4_moe", "gpt_oss")])
def test_adapters_on_every_familys_experts_are_published_plainly_and_merged(family: str, tmp_path: Path) -> None:
    _trains_and_is_published(tmp_path, family)


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_each_expert_gets_its_own_low_rank_update(family: str, tmp_path: Path, seed: int) -> None:
    """By hand: W_e + (α / r) B_e A_e, the factors of all experts beside each other, in a model without adapters."""
    base = make_model(tmp_path / "base", family, seed=seed)
    network = AutoModelForCausalLM.from_pretrained(base)
    model = get_peft_model(network, peft_config(network, Lora(rank=3, alpha=6), "tokens"))
    plain = AutoModelForCausalLM.from_pretrained(base)
    weights: dict[str, torch.Tensor] = dict(plain.named_parameters())
    with torch.no_grad():
        for name, wrapper in model.get_base_model().named_modules():
            if not hasattr(wrapper, "parameter_name") and not name.endswith(("q_proj", "k_proj", "v_proj", "o_proj")):
                continue
            A, B = wrapper.lora_A["default"].weight, wrapper.lora_B["default"].weight.normal_()
            if not hasattr(wrapper, "parameter_name"):
                weights[f"{name}.weight"] += 2 * B @ A
                continue
            tensor = weights[f"{name.replace('.base_layer', '')}.{wrapper.parameter_name}"]
            for expert in range(4):
                update = 2 * B[:, expert::4] @ A[3 * expert : 3 * expert + 3]
                tensor[expert] += update if family == "qwen3_moe" else update.T
        tokens = torch.arange(20)[None]
        torch.testing.assert_close(model(tokens).logits, plain(tokens).logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_recomputing_activations_changes_nothing_on_experts(family: str, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", family)
    runs = []
    for recompute in (False, True):
        hardware = {"gradient_checkpointing": recompute}
        options: dict[str, Any] = {"technique": {"type": "lora", "rank": 4}, "training": {"max_steps": 3}}
        run = make_run(tmp_path / str(recompute), base, train=random_rows(12, seed=5), hardware=hardware, **options)
        runs.append([report["train_loss"] for report in train_here(run).of("metrics")])
    assert runs[1] == pytest.approx(runs[0], rel=1e-6)


def test_an_adapter_that_peft_put_on_routers_too_is_continued_as_it_is(tmp_path: Path) -> None:
    """As earlier releases published them: of twice the rank on experts' first tensors."""
    run = _run(tmp_path, "qwen3_moe")
    network = AutoModelForCausalLM.from_pretrained(run / "base")
    before = get_peft_model(network, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in before.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    before.save_pretrained(str(tmp_path / "start"))
    recipe = ResolvedRecipe.model_validate_json((run / "recipe.json").read_bytes())
    model = load_trainable(run / "base", recipe, torch.device("cpu"), start=tmp_path / "start")
    theirs = {name: each for name, each in before.named_parameters() if "lora_" in name}
    assert model.trained.keys() == theirs.keys()
    assert all(torch.equal(model.trained[name], each) for name, each in theirs.items())
    assert any("mlp.gate" in name for name in theirs)


def a_large_mixture() -> Any:
    """Qwen3-30B-A3B's shapes."""
    return AutoConfig.for_model(
        "qwen3_moe", vocab_size=151936, hidden_size=2048, intermediate_size=6144, moe_intermediate_size=768,
        num_hidden_layers=48, num_attention_heads=32, num_key_value_heads=4, head_dim=128, num_experts=128,
        num_experts_per_tok=8,
    )  # fmt: skip


def a_recipe(**technique: Any) -> ResolvedRecipe:
    body = {"model": "m", "training_file": "file-x", "technique": {"type": "lora", **technique}}
    resolved = resolve(
        Recipe.model_validate(body), job_id="j", seed=1, max_length=200, train_rows=100, validation_rows=0
    )
    return resolved.model_copy(update={"precision": "bfloat16", "gradient_checkpointing": True})


def test_a_large_mixtures_experts_are_counted_and_costed() -> None:
    facts: BaseModelFacts = facts_of(a_large_mixture()) | {"layers": 48, "vocab_size": 151936, "dtype": "bfloat16"}
    whole = facts["shapes"]["parameters"]
    assert whole is not None
    facts["parameters"] = whole
    attention = 48 * 16 * (2 * (2048 + 4096) + 2 * (2048 + 512))
    experts = 48 * 128 * 16 * ((2048 + 1536) + (768 + 2048))
    assert trained_parameters(Lora(), Supervised(), facts) == attention + experts
    base = Base.of(facts)
    assert whole == pytest.approx(30.5e9, rel=0.01)
    assert base.active + 2 * base.head == pytest.approx(3.3e9, rel=0.05)  # its name says three billion
    narrow = a_recipe(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    setting = ExecutionPlan(gpu=True, value_bytes=2, budget=2048, recompute=False)
    for recipe, trained in ((narrow, attention), (a_recipe(), attention + experts)):
        memory = peak_memory(recipe, base, facts, trained, ROWS, setting)
        assert memory.weights >= 2 * whole
    # The sums of all experts' weights and their updates are kept for the backward pass.
    plain = peak_memory(narrow, base, facts, attention, ROWS, setting)
    assert memory.activations - plain.activations > 2 * 48 * 128 * 3 * 2048 * 768
    few, many = (training_work(each, base, attention, ROWS, None, 2048).flops for each in (narrow, a_recipe()))
    tokens = ROWS.tokens * narrow.n_epochs
    assert 3 * 2 * base.active * tokens < few < 3 * 2 * 1.5 * base.active * tokens
    assert many > few


def test_a_base_added_before_experts_were_noted_is_no_exact_one() -> None:
    config = tiny_config("gpt_oss")
    facts = facts_of(AutoConfig.for_model(**config.to_dict() | {"intermediate_size": 512}))
    layers = facts["shapes"]["layers"]
    facts["shapes"]["layers"] = {name: each for name, each in layers.items() if each[0] not in ("experts", "router")}
    assert shapes_of(facts)[1] is False
    assert "add it again" in str(untrained_experts(Lora(), Supervised(), facts))
    require_layers(Lora(target_modules=["experts.down_proj"]), Supervised(), facts)  # the trainer knows


def test_a_classifier_on_a_mixture_of_experts_counts_its_head() -> None:
    facts = facts_of(tiny_config("qwen3_moe"))
    plain = trained_parameters(Lora(rank=4), Supervised(), facts)
    assert trained_parameters(Lora(rank=4), Classification(), facts, labels=3) == plain + 3 * 32
