"""The adapter is the paper's, and its files are anybody's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from api.spec.resolve import ResolvedRecipe
from tests.worker.recorder import train_here
from tests.worker.run_folders import make_run, random_rows
from worker.engine.model.load import load_trainable
from worker.engine.optimizer import adamw


def _run(folder: Path, base: Path, **technique: object) -> Path:
    technique = {"type": "lora", "rank": 4, "alpha": 12} | technique
    return make_run(
        folder,
        base,
        train=random_rows(12, seed=5),
        technique=technique,
        training={"max_steps": 3, "learning_rate": 1e-2},
    )


def test_the_forward_is_wx_plus_alpha_over_r_bax(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    run = _run(tmp_path / "run", tiny_llama)
    recipe = ResolvedRecipe.model_validate_json((run / "recipe.json").read_bytes())
    model = load_trainable(run / "base", recipe, torch.device("cpu"))
    torch.manual_seed(seed)
    layer = model.network.model.layers[1].mlp.up_proj
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert torch.count_nonzero(B) == 0  # training begins at the base model
    torch.nn.init.normal_(B)
    x = torch.randn(5, 32)
    expected = x @ layer.base_layer.weight.T + 12 / 4 * (x @ A.T) @ B.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_every_linear_layer_but_the_head_is_adapted_in_float32(tiny_llama: Path, tmp_path: Path) -> None:
    run = _run(tmp_path / "run", tiny_llama)
    recipe = ResolvedRecipe.model_validate_json((run / "recipe.json").read_bytes())
    model = load_trainable(run / "base", recipe.model_copy(update={"precision": "bfloat16"}), torch.device("cpu"))
    adapted = {name.split(".")[-4] for name in model.trained}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {parameter.dtype for parameter in model.trained.values()} == {torch.float32}


@pytest.mark.parametrize("folder", ["out/model", "out/checkpoints/step-000003"])
def test_the_files_load_in_plain_peft_and_change_the_base(folder: str, tiny_llama: Path, tmp_path: Path) -> None:
    run = _run(tmp_path / "run", tiny_llama, target_modules=["up_proj", "q_proj"])
    train_here(run)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model = PeftModel.from_pretrained(base, str(run / folder)).eval()
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        tuned = model(tokens).logits
        with model.disable_adapter():
            assert (model(tokens).logits - tuned).abs().max() > 1e-3
    config = json.loads((run / folder / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "up_proj"]
    assert config["base_model_name_or_path"] == "tiny"


def test_the_log_probabilities_that_come_with_a_model_can_be_repeated(tiny_llama: Path, tmp_path: Path) -> None:
    run = _run(tmp_path / "run", tiny_llama)
    train_here(run)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), str(run / "out/model")).eval()
    written = json.loads((run / "out" / "model" / "logprobs.json").read_text())
    assert written["precision"] == "float32"
    assert len(written["rows"]) == 4
    for row in written["rows"]:
        tokens = torch.tensor(row["tokens"])
        with torch.no_grad():
            logprobs = model(tokens[None]).logits[0].log_softmax(-1)[:-1].gather(1, tokens[1:, None])[:, 0]
        torch.testing.assert_close(logprobs, torch.tensor(row["logprobs"]), rtol=0, atol=1e-4)


def test_a_hybrid_model_trains_with_adapters_where_peft_allows_them(tmp_path: Path, bases: dict[str, Path]) -> None:
    run = _run(tmp_path / "run", bases["falcon_h1"])
    assert train_here(run).of("done")
    adapted = {name.split(".")[-3] for name in load_file(run / "out" / "model" / "adapter_model.safetensors")}
    assert {"in_proj", "q_proj", "up_proj"} <= adapted
    assert "out_proj" not in adapted


def test_recomputing_activations_changes_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"train": random_rows(12, seed=5), "training": {"max_steps": 3}}
    lora = {"type": "lora", "rank": 4, "dropout": 0.2}
    runs = []
    for recompute in (False, True):
        hardware = {"gradient_checkpointing": recompute}
        run = make_run(tmp_path / str(recompute), tiny_llama, technique=lora, hardware=hardware, **options)
        runs.append(train_here(run).of("metrics"))
    for plain, recomputed in zip(*runs, strict=True):
        assert recomputed["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-6)


@pytest.mark.parametrize("init", ["default", "pissa"])
def test_adapted_embeddings_that_the_head_shares_are_published_plainly_and_merged(
    init: str, tiny_llama: Path, tmp_path: Path
) -> None:
    technique = {"type": "lora", "rank": 4, "init": init, "target_modules": ["embed_tokens", "q_proj"]}
    options: dict[str, Any] = {"training": {"max_steps": 3, "learning_rate": 1e-2}, "hardware": {"merged": True}}
    run = make_run(tmp_path / "run", tiny_llama, train=random_rows(12, seed=5), technique=technique, **options)
    assert train_here(run).of("done")  # the files and the merged model say what was trained, else it fails
    weights = load_file(run / "out/model/adapter_model.safetensors")
    assert {min(tensor.shape) for tensor in weights.values()} == {8 if init == "pissa" else 4}
    assert AutoConfig.from_pretrained(run / "out/model/merged").tie_word_embeddings is False


def test_an_adapter_of_embeddings_is_continued(tiny_llama: Path, tmp_path: Path) -> None:
    run = _run(tmp_path / "run", tiny_llama, target_modules=["embed_tokens", "q_proj"])
    assert train_here(run).of("done")
    recipe = ResolvedRecipe.model_validate_json((run / "recipe.json").read_bytes())
    continued = load_trainable(run / "base", recipe, torch.device("cpu"), start=run / "out/model")
    weights = load_file(run / "out/model/adapter_model.safetensors")
    own = get_peft_model_state_dict(continued.model, save_embedding_layers=False)
    assert own.keys() == weights.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in weights.items())


def test_lora_plus_lets_the_b_of_linear_layers_learn_faster_and_no_embedding(tiny_llama: Path, tmp_path: Path) -> None:
    run = _run(tmp_path / "run", tiny_llama, target_modules=["embed_tokens", "q_proj"], learning_rate_ratio=8)
    recipe = ResolvedRecipe.model_validate_json((run / "recipe.json").read_bytes())
    model = load_trainable(run / "base", recipe, torch.device("cpu"))
    fast = {
        id(master)
        for group in adamw(model.masters, recipe).param_groups
        if group["factor"] == 8
        for master in group["params"]
    }
    names = {name for name, master in model.masters.items() if id(master) in fast}
    assert names == {name for name in model.masters if "q_proj.lora_B" in name}
