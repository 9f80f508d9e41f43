"""convert: every kind of source becomes one layout, and what could run code or is not whole is refused."""

import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from huggingface_hub.hf_api import HfApi, ModelInfo
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

import worker.convert
from tests.tiny_models import ENCODERS, FAMILIES, make_encoder, make_model
from tests.worker import bases
from tests.worker.templates import ALL
from worker.bases import hub
from worker.bases.facts import takes_tools
from worker.bases.files import Refused
from worker.bases.gguf import _file_type
from worker.convert import convert
from worker.engine.model.families import recomputes
from worker.rows.chat_template import ChatTemplate
from worker.rows.generation_ends import EndTokens

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "vocab_size": 640,
    "tie_word_embeddings": True,
    "_name_or_path": "/home/someone/model",
}
LAYER = "model.layers.0"
SHAPES = {
    "model.embed_tokens.weight": (640, 8),
    "lm_head.weight": (640, 8),
    "model.norm.weight": (8,),
    f"{LAYER}.input_layernorm.weight": (8,),
    f"{LAYER}.post_attention_layernorm.weight": (8,),
    **{f"{LAYER}.self_attn.{name}_proj.weight": (8, 8) for name in "qkvo"},
    **{f"{LAYER}.mlp.{name}_proj.weight": (16, 8) for name in ("gate", "up")},
    f"{LAYER}.mlp.down_proj.weight": (8, 16),
}
WEIGHTS = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
PARAMETERS = sum(math.prod(shape) for shape in SHAPES.values()) - 640 * 8
"""The head is tied to the embedding, and counted once."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = bases.base(tmp_path / "source")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "LICENSE").write_text("Apache License")
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
    save_file(WEIGHTS, folder / "model.safetensors")
    return folder


def shard(folder: Path) -> None:
    """The same weights in two files with an index."""
    (folder / "model.safetensors").unlink()
    names = {name: f"model-0000{1 + n % 2}-of-00002.safetensors" for n, name in enumerate(WEIGHTS)}
    for file in set(names.values()):
        save_file({name: WEIGHTS[name] for name in WEIGHTS if names[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def test_folder_becomes_a_base_model_with_its_facts(model: Path, tmp_path: Path) -> None:
    (model / "modeling_evil.py").write_text("raise SystemExit")
    convert(str(model), tmp_path / "out")
    facts = json.loads((tmp_path / "out/attune.json").read_text())
    assert (facts["parameters"], facts["context_window"], facts["dtype"]) == (PARAMETERS, 64, "float32")
    assert (facts["license"], facts["chat_template"], facts["source"]) == ("apache-2.0", True, "source")
    assert (facts["tools"], facts["end_tokens"]) == (False, sorted(EndTokens.load(model).stops))
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "LICENSE",
        "attune.json",
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert "someone" not in (tmp_path / "out/config.json").read_text()


@pytest.mark.parametrize(("name", "takes"), [("qwen3_training", True), ("zephyr", False), ("glm4moe", False)])
def test_a_template_takes_tools_if_its_calls_can_be_read(name: str, takes: bool) -> None:
    assert takes_tools(ChatTemplate({"default": ALL[name]}, {"eos_token": "</s>"})) is takes


def test_same_source_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    for out in ("one", "two"):
        convert(str(model), tmp_path / out)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_folder_of_licenses_is_left_out(model: Path, tmp_path: Path) -> None:
    (model / "LICENSES").mkdir()
    convert(str(model), tmp_path / "out")
    assert not (tmp_path / "out/LICENSES").exists()


def test_value_that_transformers_fails_on_is_an_error_of_the_source(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.convert, "limit_process", lambda **_: None)
    edited("config.json", hidden_act="nope")(model)
    assert worker.convert.main([str(model), str(tmp_path / "out")]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == "error: transformers cannot read this model: KeyError: 'nope'"


def test_shards_are_kept(model: Path, tmp_path: Path) -> None:
    shard(model)
    assert convert(str(model), tmp_path / "out")["parameters"] == PARAMETERS
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) == 2


def test_code_of_a_model_that_transformers_has_itself_is_left_out(model: Path, tmp_path: Path) -> None:
    edited("config.json", auto_map={"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"})(model)
    assert convert(str(model), tmp_path / "out")["parameters"] == PARAMETERS
    assert "auto_map" not in (tmp_path / "out/config.json").read_text()


def test_masks_of_old_checkpoints_are_no_weights(model: Path, tmp_path: Path) -> None:
    weights(
        **{f"{LAYER}.attention.bias": np.tri(4, dtype=bool), f"{LAYER}.attention.masked_bias": np.full(1, -np.inf)}
    )(model)
    assert convert(str(model), tmp_path / "out")["parameters"] == PARAMETERS


def test_special_tokens_without_an_embedding_are_left_out_if_nothing_needs_them(model: Path, tmp_path: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    token = tokenizer["added_tokens"][-1] | {"id": 606, "content": "<image>"}
    edited("tokenizer.json", added_tokens=[*tokenizer["added_tokens"], token])(model)
    named = {"image_token": "<image>", "boi_token": "<s>"}
    edited("tokenizer_config.json", extra_special_tokens=named, **named)(model)
    edited("config.json", vocab_size=606)(model)
    weights(**{name: np.zeros((606, 8), np.float32) for name in WEIGHTS if SHAPES[name][0] == 640})(model)
    convert(str(model), tmp_path / "out")
    assert "<image>" not in "".join(file.read_text() for file in (tmp_path / "out").glob("tokenizer*.json"))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def edited(file: str, **changes: Any) -> Any:
    def edit(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | changes))

    return edit


def missing_shard(folder: Path) -> None:
    shard(folder)
    next(folder.glob("model-00002*")).unlink()


def index_that_leads_away(folder: Path) -> None:
    shard(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}')


def weights(**changes: np.ndarray[Any, Any] | None) -> Any:
    """The model with some tensors replaced, or left out (None)."""

    def edit(folder: Path) -> None:
        changed = {name: value for name, value in {**WEIGHTS, **changes}.items() if value is not None}
        save_file(changed, folder / "model.safetensors")

    return edit


def header(change: Callable[[dict[str, Any]], None]) -> Any:
    """The model's file with another header before the same data."""

    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        entries = json.loads(content[8 : 8 + length])
        change(entries)
        text = json.dumps(entries).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])

    return edit


def negative_shape(entries: dict[str, Any]) -> None:
    entries["model.norm.weight"]["shape"] = [-2, -4]


def overlapping(entries: dict[str, Any]) -> None:
    entries["lm_head.weight"]["data_offsets"] = entries["model.embed_tokens.weight"]["data_offsets"]


def fifo(name: str) -> Any:
    def make(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return make


def hub_cache(folder: Path, blobs: Path) -> Path:
    """The model as the hub's cache has it, a snapshot of links into blobs/, which is a link to `blobs`."""
    cache = folder.parent / "models--someone--model"
    snapshot = cache / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    if blobs != cache / "blobs":
        (cache / "blobs").symlink_to(blobs)
    blobs.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    return snapshot


def link_that_leads_away(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (pickled, "the weights are pickled"),
        (
            edited("config.json", auto_map={"AutoModel": "evil.Model"}, architectures=["EvilForCausalLM"]),
            "config.json has an auto_map",
        ),
        (edited("tokenizer_config.json", auto_map={}), "tokenizer_config.json has an auto_map"),
        (edited("config.json", architectures=["T5ForConditionalGeneration"], model_type="t5"), "is neither a model"),
        (
            edited("config.json", architectures=["BartForConditionalGeneration"], model_type="bart"),
            "is neither a model",
        ),
        (edited("config.json", architectures=["BertForQuestionAnswering"], model_type="bert"), "nor an encoder"),
        (edited("config.json", model_type="unheard-of"), "cannot read the model's config.json"),
        (edited("config.json", num_hidden_layers=10**7), "10000000 layers, but the weights are 12 tensors"),
        (edited("config.json", num_hidden_layers=-1), "-1 layers"),
        (edited("config.json", text_config={"num_hidden_layers": 10**7}), "10000000 layers"),
        (edited("config.json", quantization_config={"bits": 4}), "the weights are quantized"),
        (missing_shard, "model-00002-of-00002.safetensors, which is missing"),
        (index_that_leads_away, "shards are named"),
        (link_that_leads_away, "tokenizer.json is a link that leads out of the folder"),
        (edited("config.json", vocab_size=500), "token ids up to 605, but vocab_size in config.json is 500"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "the source has no tokenizer.json"),
        (lambda folder: (folder / "config.json").unlink(), "the source has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 100), "is not a safetensors file"),
        (lambda folder: (folder / "model.safetensors").open("ab").truncate(500), "is cut short"),
        (header(negative_shape), "is not a safetensors file"),
        (header(overlapping), "is not a safetensors file"),
        (weights(**{"model.norm.weight": np.full(8, np.nan, np.float32)}), "model.norm.weight holds a NaN"),
        (weights(**{f"{LAYER}.mlp.up_proj.weight": np.full((16, 8), np.inf, np.float16)}), "an infinite number"),
        (
            weights(**{f"{LAYER}.self_attn.q_proj.weight": None}),
            r"config.json requires tensors that the weights lack: .*q_proj.weight$",
        ),
        (
            weights(**{f"{LAYER}.mlp.down_proj.weight": np.zeros((8, 8), np.float32)}),
            r"down_proj.weight has shape \[8, 8\], but config.json requires \[8, 16\]",
        ),
        (fifo("config.json"), "config.json is not a regular file"),
        (fifo("tokenizer_config.json"), "tokenizer_config.json is not a regular file"),
        (fifo("model.safetensors"), "model.safetensors is not a regular file"),
    ],
)
def test_what_cannot_be_trusted_or_trained_is_refused(model: Path, tmp_path: Path, spoil: Any, expected: str) -> None:
    spoil(model)
    with pytest.raises(Refused, match=expected):
        convert(str(model), tmp_path / "out")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["source"]


def test_snapshot_of_the_hubs_cache_is_read_through_its_links(model: Path, tmp_path: Path) -> None:
    snapshot = hub_cache(model, tmp_path / "models--someone--model" / "blobs")
    assert convert(str(snapshot), tmp_path / "out")["parameters"] == PARAMETERS


def test_blobs_that_are_a_link_elsewhere_are_refused(model: Path, tmp_path: Path) -> None:
    snapshot = hub_cache(model, tmp_path / "elsewhere")
    with pytest.raises(Refused, match="is a link that leads out of the folder"):
        convert(str(snapshot), tmp_path / "out")


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_how_a_model_is_computed_is_no_part_of_it(model: Path, tmp_path: Path, name: str) -> None:
    """`owner/repo` there makes transformers fetch code from a hub."""
    edited("config.json", **{name: "someone/kernel"})(model)
    convert(str(model), tmp_path / "out")
    assert "someone/kernel" not in (tmp_path / "out/config.json").read_text()


@pytest.mark.parametrize(
    "array", [struct.pack("<IQ", 0, 1 << 40), struct.pack("<IQ", 8, 1 << 23), struct.pack("<IQ", 9, 1 << 20)]
)
def test_gguf_header_longer_than_its_file_is_refused_at_once(tmp_path: Path, array: bytes) -> None:
    key = b"tokenizer.ggml.tokens"
    kv = struct.pack("<Q", len(key)) + key + struct.pack("<I", 9) + array
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + kv + bytes(64))
    with pytest.raises(Refused, match=r"cut short, or its header is damaged|has an array of"):
        convert(str(path), tmp_path / "out")


def test_gguf_of_more_layers_than_it_has_tensors_is_refused_at_once(tmp_path: Path) -> None:
    def entry(name: bytes, value: bytes) -> bytes:
        return struct.pack("<Q", len(name)) + name + value

    architecture = struct.pack("<IQ", 8, 5) + b"llama"
    entries = entry(b"general.architecture", architecture) + entry(b"general.file_type", struct.pack("<II", 4, 0))
    entries += entry(b"llama.block_count", struct.pack("<II", 4, 10**7))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 3) + entries + bytes(64))
    with pytest.raises(Refused, match="requires 10000000 layers, but the weights are 0 tensors"):
        convert(str(path), tmp_path / "out")


def test_tokenizer_that_transformers_changes_when_it_loads_is_stored_as_it_loads_it(
    model: Path, tmp_path: Path
) -> None:
    edited("tokenizer_config.json", extra_special_tokens=["<|new|>"])(model)
    convert(str(model), tmp_path / "out")
    assert "<|new|>" in (tmp_path / "out/tokenizer.json").read_text()


def test_several_chat_templates_are_kept_in_a_flat_folder(model: Path, tmp_path: Path) -> None:
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates/tool_use.jinja").write_text(bases.TOOLS)
    convert(str(model), tmp_path / "out")
    assert all(file.is_file() for file in (tmp_path / "out").iterdir())
    template = ChatTemplate.load(tmp_path / "out")
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert template is not None
    assert template.sources == theirs.chat_template == {"default": bases.CHATML, "tool_use": bases.TOOLS}


def test_command_line_says_why_on_its_last_line(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "worker.convert", str(tmp_path / "nothing"), str(tmp_path / "out")]
    ended = subprocess.run(arguments, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("error: ")


def test_gguf_whose_header_leaves_out_its_type_has_that_of_most_weights() -> None:
    """The field `general.file_type` is optional."""

    def reader(*tensors: tuple[str, int]) -> Any:
        types = gguf.GGMLQuantizationType
        found = [SimpleNamespace(tensor_type=types[name], n_elements=np.uint64(count)) for name, count in tensors]
        return SimpleNamespace(get_field=lambda _: None, tensors=found)

    assert _file_type(reader(("F32", 10), ("Q4_K", 90), ("Q6_K", 50), ("F32", 10))) == "MOSTLY_Q4_K"
    assert _file_type(reader(("F32", 10), ("BF16", 90))) == "MOSTLY_BF16"
    assert _file_type(reader(("F32", 10))) == "ALL_F32"


def test_gguf_says_what_its_weights_were(smollm2: Path) -> None:
    facts = json.loads((smollm2 / "attune.json").read_text())
    assert (facts["dequantised_from"], facts["dtype"], facts["parameters"]) == ("Q4_1", "bfloat16", 134515008)
    assert (facts["license"], facts["context_window"]) == ("apache-2.0", 8192)


def test_hub_model_is_pinned_to_the_commit_that_its_revision_names(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    class Hub:
        def model_info(self, hub_id: str, revision: str | None) -> ModelInfo:
            asked["info"] = (hub_id, revision)
            siblings = [{"rfilename": file.name} for file in model.iterdir()]
            return ModelInfo(id=hub_id, sha="a" * 40, siblings=siblings, private=False, tags=[], downloads=0, likes=0)

    def snapshot(hub_id: str, *, revision: str, local_dir: Path, allow_patterns: list[str]) -> None:
        asked["download"] = (hub_id, revision)
        model.rename(local_dir)

    monkeypatch.setattr(hub, "HfApi", Hub)
    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    facts = convert("someone/model", tmp_path / "out", "main")
    assert asked == {"info": ("someone/model", "main"), "download": ("someone/model", "a" * 40)}
    assert (facts["source"], facts["revision"]) == ("someone/model", "a" * 40)


def test_a_hub_that_cannot_be_reached_is_the_problem_and_not_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ConnectError(Exception):
        """Like that of the hub's HTTP library, which is no OSError."""

    def fail(*_: object, **options: object) -> None:
        raise ConnectError("Name or service not known")

    monkeypatch.setattr(HfApi, "model_info", fail)
    with pytest.raises(Refused, match=r"could not be reached for someone/model: Name or service not known\. If"):
        convert("someone/model", tmp_path / "out")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_that_the_trainer_knows_can_be_converted(family: str, tmp_path: Path) -> None:
    made = make_model(tmp_path / "made", family)
    facts = convert(str(made), tmp_path / "out")
    assert facts["kind"] == "causal_lm"
    assert facts["context_window"] == 128
    assert facts["parameters"] == AutoModelForCausalLM.from_pretrained(tmp_path / "out").num_parameters()


@pytest.mark.parametrize(("family", "can"), [("albert", False), ("mpnet", False), ("bert", True), ("llama", True)])
def test_it_is_noted_whether_a_family_can_recompute_activations(family: str, can: bool) -> None:
    assert recomputes(AutoConfig.for_model(family)) is can


@pytest.mark.parametrize("family", ENCODERS)
def test_every_encoder_that_the_trainer_knows_can_be_converted(family: str, tmp_path: Path) -> None:
    made = make_encoder(tmp_path / "made", family)
    facts = convert(str(made), tmp_path / "out")
    assert (facts["kind"], facts["classifies"], facts["chat_template"]) == ("encoder", True, False)
    assert facts["shapes"]["width"] == facts["shapes"]["key_values"] == facts["hidden_size"]
    reader, tokenizer = (kind.from_pretrained(tmp_path / "out") for kind in (AutoModel, AutoTokenizer))
    assert facts["parameters"] == reader.num_parameters()
    longest = torch.full((1, facts["context_window"]), tokenizer.mask_token_id)
    assert reader(input_ids=longest).last_hidden_state.shape[1] == facts["context_window"]
