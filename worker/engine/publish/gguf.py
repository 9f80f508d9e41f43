"""A whole model as one GGUF file, which llama.cpp and what is built on it read.

The gguf library, llama.cpp's own, names tensors, quantises and writes; here stands what a Llama-like model needs of it.
What is not known to come out right is refused rather than guessed: a runtime would read it without a word, and wrongly.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoConfig

from api.spec.lifecycle import FailureReason
from api.spec.outputs import GGUF_FAMILIES
from api.spec.resolve import ResolvedRecipe
from worker.engine.errors import TrainingError
from worker.rows.end_tokens import EndTokens

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,  # llama.cpp knows it by that name
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
assert tuple(ARCHITECTURES) == GGUF_FAMILIES
FORMS = {
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
Q8_BLOCK = 32
GGUF = "gguf"
"""The folder, within what is published, of the file."""

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    (None, ("ByteLevel",), False): "gpt-2",
    (None, ("Digits", "ByteLevel"), False): "smollm",
    (None, (_WORDS + r"\p{N}{1,3}" + _REST,), True): "llama-bpe",
    ("NFC", (_WORDS + r"\p{N}" + _REST,), False): "qwen2",
}
"""How a byte-level tokenizer cuts text before it merges (its normalizer, its cuts, whether whole words skip merging),
and llama.cpp's name for that. It knows no other way to be told."""


def require_exportable(base: Path) -> None:
    """Raises TrainingError (invalid_recipe): better before the training than after it."""
    why = _unlike(AutoConfig.from_pretrained(base, trust_remote_code=False, local_files_only=True).to_dict())
    if why is None and _split_of(json.loads((base / "tokenizer.json").read_bytes())) is None:
        why = "its tokenizer cuts text in a way that has no name in GGUF"
    if why is not None:
        message = f"export.gguf: this base model cannot be written as GGUF, because {why}. Leave export.gguf out."
        raise TrainingError(FailureReason.INVALID_RECIPE, message)


def export_gguf(model: Path, folder: Path, recipe: ResolvedRecipe) -> Path:
    """Write the whole model that lies in `model` as one file in `folder`/gguf. Vectors stay float32."""
    assert recipe.gguf is not None
    path = folder / GGUF / f"model-{recipe.gguf}.gguf"
    path.parent.mkdir()
    write_gguf(model, path, recipe.gguf, name=recipe.job_id)
    return path


def write_gguf(model: Path, path: Path, form: str, name: str) -> None:
    config = AutoConfig.from_pretrained(model, trust_remote_code=False, local_files_only=True)
    kind, file_type = FORMS[form]
    architecture = ARCHITECTURES[config.model_type]
    writer = GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _write_shape(writer, config)
    _write_tokenizer(writer, model, config.vocab_size)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    kinds: list[tuple[str, GGMLQuantizationType]] = []
    for hf_name, shape in _shapes(model):
        ours = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        assert ours is not None, f"{hf_name} has no name in GGUF"
        stored = _kind_of(shape, kind)
        kinds.append((hf_name, stored))
        writer.add_tensor_info(ours, shape, np.dtype(np.float32), _bytes_of(shape, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for (_, stored), (hf_name, tensor) in zip(kinds, _tensors(model), strict=True):
        ordered = _interleaved(hf_name, tensor, config) if architecture == gguf.MODEL_ARCH.LLAMA else tensor
        writer.write_tensor_data(gguf.quants.quantize(np.ascontiguousarray(ordered), stored))
    writer.close()


def _unlike(config: dict[str, Any]) -> str | None:
    """What of this model a GGUF file of its family cannot say."""
    if config["model_type"] not in ARCHITECTURES:
        return f"only the families {', '.join(ARCHITECTURES)} are known to come out right"
    if (config.get("rope_parameters") or {}).get("rope_type", "default") != "default":
        return "its rotary positions are scaled"
    windowed = config.get("use_sliding_window", True) and config.get("sliding_window") is not None
    if windowed:
        return "its attention has a sliding window"
    if config.get("mlp_bias") or (config.get("attention_bias") and config["model_type"] != "qwen2"):
        return "its layers have biases"
    if config["hidden_act"] != "silu":
        return f"its activation is {config['hidden_act']}"
    return None


def _split_of(tokenizer: dict[str, Any]) -> str | None:
    """llama.cpp's name for the way in which this tokenizer.json cuts text, if it has one."""
    model, normalizer, cut = tokenizer["model"], tokenizer["normalizer"], tokenizer["pre_tokenizer"] or {}
    parts = cut.get("pretokenizers", [cut])
    last = parts[-1]
    plain = model["type"] == "BPE" and not model.get("byte_fallback") and last.get("type") == "ByteLevel"
    if not plain or last["add_prefix_space"]:
        return None
    cuts = []
    for part in parts:
        if part["type"] == "Split" and part["behavior"] == "Isolated" and not part["invert"]:
            cuts.append(part["pattern"].get("Regex", ""))
        elif part["type"] == "Digits" and part["individual_digits"]:
            cuts.append("Digits")
        elif part is last:
            cuts += ["ByteLevel"] if last["use_regex"] else []
        else:
            return None
    return SPLITS.get((normalizer and normalizer["type"], tuple(cuts), bool(model.get("ignore_merges"))))


def _write_shape(writer: GGUFWriter, config: Any) -> None:
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _write_tokenizer(writer: GGUFWriter, model: Path, rows: int) -> None:
    """`rows`: of the embeddings, of which a model may have more than its tokenizer has tokens."""
    written = json.loads((model / "tokenizer.json").read_bytes())
    texts = {number: text for text, number in written["model"]["vocab"].items()}
    kinds = dict.fromkeys(texts, TokenType.NORMAL)
    for added in written["added_tokens"]:
        texts[added["id"]] = added["content"]
        kinds[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    split = _split_of(written)
    assert split is not None, "require_exportable has looked"
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list([texts.get(number, f"[PAD{number}]") for number in range(rows)])
    writer.add_token_types([kinds.get(number, TokenType.UNUSED) for number in range(rows)])
    special = gguf.SpecialVocab(model, load_merges=True, n_vocab=rows)
    first = Tokenizer.from_file(str(model / "tokenizer.json")).encode("a").ids[0]
    special.add_special_token = {"bos": first == special.special_token_ids.get("bos"), "eos": False}
    special.add_to_gguf(writer, quiet=True)
    endings = EndTokens.load(model)
    turn = next((number for number in endings.chat_tail if number in endings.stops), None)
    if turn not in (None, special.special_token_ids.get("eos")) and "eot" not in special.special_token_ids:
        writer.add_eot_token_id(turn)  # llama.cpp knows the widespread ones by their text, and no others


def _files(model: Path) -> list[Path]:
    return sorted(model.glob("model*.safetensors"))


def _shapes(model: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    for path in _files(model):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no dict)
                yield name, tuple(file.get_slice(name).get_shape())


def _tensors(model: Path) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """In the same order, one at a time."""
    for path in _files(model):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name).to(torch.float32).numpy()


def _kind_of(shape: tuple[int, ...], wanted: GGMLQuantizationType) -> GGMLQuantizationType:
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    whole_blocks = shape[-1] % Q8_BLOCK == 0
    return wanted if whole_blocks or wanted is not GGMLQuantizationType.Q8_0 else GGMLQuantizationType.F16


def _bytes_of(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return int(np.prod(shape)) // block * size


def _interleaved(name: str, tensor: npt.NDArray[np.float32], config: Any) -> npt.NDArray[np.float32]:
    """llama.cpp turns neighbouring pairs of a Llama's query and key; transformers turns the halves of a head. So the
    rows of each head go from (half, pair) to (pair, half)."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    return tensor.reshape(heads, 2, -1, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
