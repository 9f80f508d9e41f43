"""GGUF files, read back by transformers' own reader."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from tokenizers import Tokenizer, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from api.infra.storage import Storage
from api.spec.outputs import GGUF_FAMILIES
from tests.tiny_models import FAMILIES, make_tokenizer
from tests.worker.recorder import train_here
from tests.worker.run_folders import make_run, random_rows
from worker.engine.errors import TrainingError
from worker.engine.publish.gguf import require_exportable, write_gguf
from worker.supervisor.outputs import store_folder

TEXT = "<turn>user\nIt's 12345 naïve  cats\n\n\t日本語 don't</turn>\n"
TOKENS = torch.tensor([[5, 70, 71, 200, 31, 256, 9, 110]])


def a_model(folder: Path, family: str, **changed: Any) -> Path:
    """Whose layers hold whole blocks of 32 weights, and whose vectors are no ones and zeros."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 300, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 128 if family == "qwen3" else 16}
    ids = {"bos_token_id": 256, "eos_token_id": 258, "pad_token_id": 258}
    config = AutoConfig.for_model(family, **shape | heads | ids | {"sliding_window": None} | changed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2 + (parameter.ndim == 1))
    model.save_pretrained(folder)
    make_tokenizer(folder)
    return folder


@torch.no_grad()
def logprobs(model: Any) -> torch.Tensor:
    return model.eval()(TOKENS).logits.log_softmax(-1)


@pytest.mark.parametrize(("eos", "turn"), [("<s>", 258), ("</turn>", None)])
def test_its_end_of_turn_is_named_where_it_is_not_its_eos(eos: str, turn: int | None, tmp_path: Path) -> None:
    folder = a_model(tmp_path / "model", "llama")
    settings = json.loads((folder / "tokenizer_config.json").read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": eos}))
    write_gguf(folder, tmp_path / "m.gguf", "f16", "test")
    found = GGUFReader(tmp_path / "m.gguf").get_field("tokenizer.ggml.eot_token_id")
    assert (None if found is None else int(found.contents())) == turn


@pytest.mark.parametrize("form", ["f16", "q8_0"])
@pytest.mark.parametrize("family", GGUF_FAMILIES)
def test_what_is_read_back_is_the_model(family: str, form: str, tmp_path: Path) -> None:
    folder = a_model(tmp_path / "model", family)
    require_exportable(folder)
    write_gguf(folder, tmp_path / "m.gguf", form, "test")
    back = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    difference = (logprobs(ours) - logprobs(back)).abs()
    assert float(difference.mean()) < {"f16": 2e-3, "q8_0": 5e-2}[form]
    assert float(logprobs(ours).std()) > 1, "a model that says the same of everything would prove nothing"


def test_its_tokenizer_comes_with_it(tmp_path: Path) -> None:
    folder = a_model(tmp_path / "model", "llama", bos_token_id=290, eos_token_id=292, pad_token_id=292)
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_str(json.dumps(json.loads(path.read_bytes()) | {"added_tokens": []}))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(
        ["cats and dogs " * 9, "don't 12345 " * 9, "the cats' dogs and the dogs' cats"], trainer
    )
    tokenizer.add_special_tokens(["<s>", "<turn>", "</turn>"])
    tokenizer.save(str(path))
    write_gguf(folder, tmp_path / "m.gguf", "f16", "test")
    ours, back = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    assert back(TEXT).input_ids == ours(TEXT).input_ids
    assert (back.eos_token, back.chat_template) == (ours.eos_token, ours.chat_template)


@pytest.mark.parametrize(
    ("family", "changed", "says"),
    [
        ("mistral", {"sliding_window": 8}, "sliding window"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "scaled"),
        ("llama", {"attention_bias": True}, "biases"),
        ("gpt2", {}, "only the families llama, mistral, qwen2, qwen3"),
    ],
)
def test_what_a_file_could_not_say_is_refused(family: str, changed: dict[str, Any], says: str, tmp_path: Path) -> None:
    known = FAMILIES[family] if family == "gpt2" else {"model_type": family, "sliding_window": None}
    AutoConfig.for_model(**known | changed).save_pretrained(tmp_path)
    make_tokenizer(tmp_path)
    with pytest.raises(TrainingError, match=says):
        require_exportable(tmp_path)


def test_a_tokenizer_that_has_no_name_there_is_refused(tmp_path: Path) -> None:
    AutoConfig.for_model("llama").save_pretrained(tmp_path)
    make_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"pre_tokenizer": {"type": "Whitespace"}}))
    with pytest.raises(TrainingError, match="tokenizer"):
        require_exportable(tmp_path)


@pytest.mark.parametrize(("technique", "merged"), [("lora", False), ("full", False), ("lora", True)])
def test_a_job_publishes_it_beside_what_it_trained(
    technique: str, merged: bool, tiny_llama: Path, tmp_path: Path, storage: Storage
) -> None:
    rows = random_rows(12, seed=5)
    settled = {"merged": merged}
    options: dict[str, Any] = {
        "technique": {"type": technique},
        "export": {"gguf": "q8_0"},
        "training": {"max_steps": 2},
    }
    run = make_run(tmp_path / "run", tiny_llama, train=rows, hardware=settled, **options)
    train_here(run)
    artifacts = store_folder(storage, run / "out" / "model", "models/m")
    names = {artifact["name"] for artifact in artifacts}
    assert {"gguf/model-q8_0.gguf", "gguf/manifest.json"} <= names
    assert any(name.startswith("merged/") for name in names) is merged
