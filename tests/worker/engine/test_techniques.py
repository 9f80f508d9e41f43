"""What peft runs for us is what the papers say, and what is published of it is the model that was trained."""

from pathlib import Path
from typing import Any

import bitsandbytes
import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AttentionInterface, AutoModelForCausalLM

from tests import tiny_models
from tests.tiny_models import make_model, make_tokenizer
from tests.worker import every_family, pairs
from tests.worker.parity import ours
from worker.engine.errors import TrainingError
from worker.engine.model import load
from worker.engine.model.load import load_network, load_trainable
from worker.engine.optimizer import adamw, clipped_step
from worker.engine.publish.card import TrainingSummary
from worker.engine.publish.export import export
from worker.methods import METHODS, MethodContext, Objective
from worker.shared.arrays import Rows

LORA = {"type": "lora", "rank": 4, "alpha": 12}
TOKENS = torch.arange(20)[None]


def _begin(base: Path, run: Path, seed: int, technique: dict[str, Any], *, moved: bool = True) -> Objective:
    torch.manual_seed(seed)
    objective = ours.begin(base, run, ours.settled("supervised", {}, technique))
    if moved:
        ours.change_weights(objective, by=0.1)
    return objective


def _factors(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


def _says(network: Any, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    network.set_attn_implementation("eager")
    with torch.no_grad():
        logits: torch.Tensor = network(input_ids=tokens).logits
    return logits


def test_rank_stabilised_lora_scales_by_the_root_of_the_rank(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    layer = (
        _begin(tiny_llama, tmp_path / "run", seed, LORA | {"rslora": True}).model.network.model.layers[1].mlp.up_proj
    )
    (A, B), x = _factors(layer), torch.randn(5, 32)
    expected = x @ layer.base_layer.weight.T + 12 / 4**0.5 * x @ A.T @ B.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_dora_learns_magnitude_and_direction_apart(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    objective = _begin(tiny_llama, tmp_path / "run", seed, LORA | {"type": "dora"})
    layer = objective.model.network.model.layers[0].self_attn.q_proj
    (A, B), x = _factors(layer), torch.randn(5, 32)
    direction = layer.base_layer.weight + 12 / 4 * B @ A
    magnitude = layer.lora_magnitude_vector["default"].weight
    expected = x @ (magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True)).T
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_dora_begins_at_the_base_with_its_magnitudes(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    objective = _begin(tiny_llama, tmp_path / "run", seed, LORA | {"type": "dora"}, moved=False)
    layer = objective.model.network.model.layers[0].self_attn.q_proj
    torch.testing.assert_close(layer.lora_magnitude_vector["default"].weight, layer.base_layer.weight.norm(dim=1))
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama)
    torch.testing.assert_close(_says(objective.model.network), _says(plain), rtol=1e-4, atol=1e-4)


def test_single_layers_have_their_own_rank_and_alpha(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    patterns = {"rank_pattern": {"up_proj": 2}, "alpha_pattern": {r"layers\.1\.mlp\.up_proj": 5}}
    objective = _begin(tiny_llama, tmp_path / "run", seed, LORA | patterns)
    x = torch.randn(5, 32)
    layers = objective.model.network.model.layers
    for layer, rank, scale in (
        (layers[0].mlp.up_proj, 2, 12 / 2),
        (layers[1].mlp.up_proj, 2, 5 / 2),
        (layers[1].mlp.gate_proj, 4, 12 / 4),
    ):
        A, B = _factors(layer)
        assert A.shape == (rank, 32)
        expected = x @ layer.base_layer.weight.T + scale * x @ A.T @ B.T
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_fits_no_layer_is_refused(field: str, tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    with pytest.raises(TrainingError, match=f"{field}: 'up_porj' matches none of the adapted layers"):
        _begin(tiny_llama, tmp_path / "run", seed, LORA | {field: {"up_porj": 2}})


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_what_an_initialisation_takes_out_of_the_weights_is_in_the_adapter(
    init: str, tiny_llama: Path, tmp_path: Path, seed: int
) -> None:
    objective = _begin(tiny_llama, tmp_path / "run", seed, LORA | {"init": init}, moved=False)
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama)
    layer, before = objective.model.network.model.layers[1].mlp.up_proj, plain.model.layers[1].mlp.up_proj.weight
    A, B = _factors(layer)
    taken = before - layer.base_layer.weight
    torch.testing.assert_close(taken, 12 / 4 * B @ A, rtol=1e-4, atol=1e-5)
    assert torch.linalg.matrix_rank(taken, rtol=1e-4) == 4
    torch.testing.assert_close(_says(objective.model.network), _says(plain), rtol=1e-4, atol=1e-4)


def test_pissa_takes_the_principal_directions(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    objective = _begin(tiny_llama, tmp_path / "run", seed, LORA | {"init": "pissa"}, moved=False)
    layer = objective.model.network.model.layers[1].mlp.up_proj
    weight = AutoModelForCausalLM.from_pretrained(tiny_llama).model.layers[1].mlp.up_proj.weight.detach()
    U, S, Vh = torch.linalg.svd(weight)
    A, B = _factors(layer)
    torch.testing.assert_close(12 / 4 * B @ A, U[:, :4] @ S[:4].diag() @ Vh[:4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_the_published_adapter_of_twice_the_rank_goes_on_the_base_as_it_was(
    init: str, rslora: bool, tiny_llama: Path, tmp_path: Path, seed: int
) -> None:
    patterns = {"rank_pattern": {"up_proj": 2}, "alpha_pattern": {"q_proj": 7}}
    technique = LORA | patterns | {"init": init, "rslora": rslora}
    objective = _begin(tiny_llama, tmp_path / "run", seed, technique)
    (tmp_path / "published").mkdir()
    export(objective.model, tmp_path / "published", tiny_llama, objective.recipe, TrainingSummary())
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama)
    before = _says(plain)
    published = PeftModel.from_pretrained(plain, str(tmp_path / "published"))
    config: Any = published.peft_config["default"]
    assert config.r == 8
    said = _says(published.get_base_model())
    assert (said - before).abs().max() > 0.1
    torch.testing.assert_close(said, _says(objective.model.network), rtol=1e-4, atol=1e-4)


def test_lora_plus_moves_b_faster_than_a(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    """AdamW's first step is its learning rate long in each coordinate, whatever the gradient."""
    objective = _begin(tiny_llama, tmp_path / "run", seed, LORA | {"learning_rate_ratio": 16})
    optimizer = adamw(objective.model.masters, objective.recipe)
    before = {name: master.detach().clone() for name, master in objective.model.masters.items()}
    for master in objective.model.masters.values():
        master.grad = torch.ones_like(master)
    clipped_step(optimizer, None, 1e-3)
    for name, master in objective.model.masters.items():
        step = 16e-3 if "lora_B" in name else 1e-3
        torch.testing.assert_close(before[name] - master, torch.full_like(master, step), rtol=1e-3, atol=1e-6)


def _rows(seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    return ours.rows_of([(tokens, [1.0] * len(tokens)) for tokens in (ours.drawn(rng, 3, 15) for _ in range(4))])


def _logprobs(logits_T_V: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    return logits_T_V.log_softmax(-1)[:-1].gather(1, torch.tensor(tokens)[1:, None]).sum()


def test_prompt_tuning_puts_embeddings_before_the_text(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    objective = _begin(tiny_llama, tmp_path / "run", seed, {"type": "prompt", "tokens": 5})
    (learnt,) = objective.model.trained.values()
    assert learnt.shape == (5, 32)
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama, attn_implementation="eager")
    expected = []
    with torch.no_grad():
        for tokens_T, _ in _rows(seed):
            text = plain.get_input_embeddings()(torch.tensor(tokens_T.tolist()))
            logits = plain(inputs_embeds=torch.cat([learnt, text])[None]).logits[0, 5:]
            expected.append(_logprobs(logits, tokens_T.tolist()))
    found = objective.sequence_logprobs(_rows(seed))[:, 0]
    torch.testing.assert_close(torch.from_numpy(found), torch.stack(expected), rtol=1e-5, atol=1e-4)


def test_prefix_tuning_puts_keys_and_values_before_the_text(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    """In each layer, without a position of their own; the text's positions begin after them."""
    objective = _begin(tiny_llama, tmp_path / "run", seed, {"type": "prefix", "tokens": 5})
    (learnt,) = objective.model.trained.values()
    by_layer = learnt.detach().view(5, 2, 2, 2, 8).permute(1, 2, 3, 0, 4)  # [layer, key or value, head, P, D]

    def attention(module: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        keys, values = (
            torch.cat([prefix[None], states], 2).repeat_interleave(2, 1)
            for prefix, states in zip(by_layer[module.layer_idx], (key, value), strict=True)
        )
        count = query.shape[2]
        scores = query @ keys.transpose(-1, -2) / 8**0.5
        seen = torch.ones(count, 5 + count).tril(5).bool()
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        return (weights @ values).transpose(1, 2), None

    AttentionInterface.register("after_a_prefix", attention)
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama, attn_implementation="after_a_prefix")
    expected = []
    with torch.no_grad():
        for tokens_T, _ in _rows(seed):
            tokens = torch.tensor(tokens_T.tolist())[None]
            logits = plain(input_ids=tokens, position_ids=5 + torch.arange(tokens.shape[1])[None]).logits[0]
            expected.append(_logprobs(logits, tokens_T.tolist()))
    found = objective.sequence_logprobs(_rows(seed))[:, 0]
    torch.testing.assert_close(torch.from_numpy(found), torch.stack(expected), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("family", ["falcon", "mpt", "gemma3_text"])
def test_prefix_begins_as_the_text_itself_in_every_shape_of_the_cache(family: str, tmp_path: Path, seed: int) -> None:
    """Falcon has one key for all queries, MPT other names in its config, Gemma a window shorter than the prefix."""
    base = tmp_path / "base"
    config = tiny_models.tiny_config(family) if family in tiny_models.FAMILIES else every_family.tiny_config(family)
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    make_tokenizer(base)
    opening = np.random.default_rng(seed).integers(5, 250, 12).astype(np.int32)
    recipe = ours.settled("supervised", {}, {"type": "prefix", "tokens": 12})
    model = load_trainable(base, recipe, torch.device("cpu"), opening=opening)
    objective = METHODS["supervised"](MethodContext(recipe, tmp_path, model, lambda *_, **__: None))
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    expected = []
    for tokens_T, _ in _rows(seed):
        whole = torch.tensor([*opening.tolist(), *tokens_T.tolist()])[None]
        with torch.no_grad():
            expected.append(_logprobs(plain(input_ids=whole).logits[0, 12:], tokens_T.tolist()))
    found = objective.sequence_logprobs(_rows(seed))[:, 0]
    torch.testing.assert_close(torch.from_numpy(found), torch.stack(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["mamba", "openai-gpt", "gpt_bigcode"])
def test_a_family_that_a_prefix_cannot_be_put_before_is_refused_by_name(family: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    AutoModelForCausalLM.from_config(every_family.tiny_config(family)).save_pretrained(base)
    recipe = ours.settled("supervised", {}, {"type": "prefix", "tokens": 4})
    with pytest.raises(TrainingError, match=f"Prefix tuning does not work on models of the family {family}"):
        load_trainable(base, recipe, torch.device("cpu"), opening=np.arange(4, dtype=np.int32))


@pytest.fixture(scope="module")
def wide_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its layers read 64 or 128 numbers: bitsandbytes' blocks are 64 long."""
    return make_model(tmp_path_factory.mktemp("bases") / "wide", "llama_wide")


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
def test_qlora_adds_to_the_weights_in_four_bits(
    quantization: str, double: bool, wide_llama: Path, tmp_path: Path, seed: int
) -> None:
    technique = LORA | {"type": "qlora", "quantization": quantization, "double_quantization": double}
    objective = _begin(wide_llama, tmp_path / "run", seed, technique)
    layer = objective.model.network.model.layers[1].mlp.up_proj
    kept = layer.base_layer.weight
    assert (kept.quant_state.quant_type, kept.quant_state.nested) == (quantization, double)
    weight = bitsandbytes.functional.dequantize_4bit(kept.data, kept.quant_state).float()
    (A, B), x = _factors(layer), torch.randn(5, 64)
    expected = x @ weight.T + 12 / 4 * x @ A.T @ B.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    assert not isinstance(objective.model.network.lm_head, bitsandbytes.nn.Linear4bit)


@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
def test_weights_in_four_bits_are_the_nearest_level_of_their_block(
    quantization: str, wide_llama: Path, tmp_path: Path, seed: int
) -> None:
    technique = LORA | {"type": "qlora", "quantization": quantization, "double_quantization": False}
    objective = _begin(wide_llama, tmp_path / "run", seed, technique)
    kept = objective.model.network.model.layers[0].mlp.down_proj.base_layer.weight
    weight = bitsandbytes.functional.dequantize_4bit(kept.data, kept.quant_state).float()
    plain = AutoModelForCausalLM.from_pretrained(wide_llama).model.layers[0].mlp.down_proj.weight
    blocks = plain.detach().view(-1, 64)
    largest, levels = blocks.abs().amax(1, keepdim=True), kept.quant_state.code
    nearest = levels[((blocks / largest)[..., None] - levels).abs().argmin(-1)] * largest
    torch.testing.assert_close((weight - plain).abs(), (nearest.view_as(plain) - plain).abs(), rtol=1e-4, atol=1e-5)


def test_qlora_on_a_cpu_refuses_layers_that_bitsandbytes_reads_wrongly(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="multiple of 64"):
        _begin(tiny_llama, tmp_path / "run", 0, {"type": "qlora"})


def test_merged_weights_are_those_that_the_trainers_device_quantized(
    wide_llama: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU refuses rows that a GPU has trained on, and the training would be lost."""
    objective = _begin(wide_llama, tmp_path / "run", seed, LORA)
    recipe = ours.settled("supervised", {}, LORA | {"type": "qlora"})
    devices: list[torch.device] = []

    def load_here(base: Path, recipe: Any, device: torch.device) -> Any:
        devices.append(device)
        return load_network(base, recipe, torch.device("cpu"))

    monkeypatch.setattr(load, "load_network", load_here)
    layer = objective.model.network.model.layers[1].mlp.up_proj.base_layer
    before = layer.weight.clone()
    load.copy_quantized_weights(objective.model.model, wide_llama, recipe, torch.device("cuda"))
    assert devices == [torch.device("cuda")]
    assert 0 < (layer.weight - before).abs().max() < 0.2 * before.abs().max()


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_an_initialization_begins_at_a_base_of_transposed_layers(
    init: str, bases: dict[str, Path], tmp_path: Path, seed: int
) -> None:
    """GPT-2 stores its matrices as [inputs, outputs]."""
    objective = _begin(bases["gpt2"], tmp_path / "run", seed, LORA | {"init": init}, moved=False)
    plain = AutoModelForCausalLM.from_pretrained(bases["gpt2"])
    torch.testing.assert_close(_says(objective.model.network), _says(plain.eval()), rtol=1e-4, atol=1e-4)
    layer: Any = objective.model.network.get_submodule("transformer.h.0.attn.c_attn")
    assert layer.base_layer.weight.shape == (32, 96)


def test_a_classifier_on_four_bit_transposed_layers_is_merged(tmp_path: Path) -> None:
    """bitsandbytes stores GPT-2's matrices as [outputs, inputs]."""
    base = make_model(tmp_path / "base", "gpt2_wide")
    pairs.make(tmp_path / "run", base, "qlora", "classification", seed=3, steps=2)
    pairs.train(tmp_path / "run")  # it proves that the merged weights give the trained model's scores
    assert (tmp_path / "run" / "out" / "model" / "merged" / "model.safetensors").exists()
