"""Export of a whole model as one GGUF file, for llama.cpp and the runtimes built on it.

The gguf library, llama.cpp's own, names tensors, quantizes and writes; this module maps Llama-like models onto it. A
model whose export has not been verified is refused: a runtime would load a wrong file without a warning.
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
from transformers import AutoConfig, PreTrainedConfig

from api.spec.lifecycle import FailureReason
from api.spec.outputs import GGUF_FAMILIES
from api.spec.resolve import ResolvedRecipe
from worker.engine.errors import TrainingError
from worker.rows.generation_ends import EndTokens

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,  # llama.cpp's name for it
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
assert tuple(ARCHITECTURES) == GGUF_FAMILIES
QUANTIZATIONS = {
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
Q8_BLOCK = 32
"""Q8_0 stores blocks of this many weights with one scale."""
GGUF = "gguf"
"""Subfolder of the published folder that holds the file."""

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE_TOKENIZERS = {
    (None, ("ByteLevel",), False): "gpt-2",
    (None, ("Digits", "ByteLevel"), False): "smollm",
    (None, (_WORDS + r"\p{N}{1,3}" + _REST,), True): "llama-bpe",
    ("NFC", (_WORDS + r"\p{N}" + _REST,), False): "qwen2",
}
"""llama.cpp's name for each pre-tokenization: (normalizer, splits, whether whole words skip merging). A GGUF file can
only name one that llama.cpp has implemented."""


def require_exportable(base: Path) -> None:
    """Raise TrainingError (invalid_recipe) if a model trained from this base cannot be written as GGUF. Called before
    the training."""
    reason = _unsupported(AutoConfig.from_pretrained(base, trust_remote_code=False, local_files_only=True).to_dict())
    if reason is None and _pre_tokenizer_name(json.loads((base / "tokenizer.json").read_bytes())) is None:
        reason = "its tokenizer splits text in a way that has no name in GGUF"
    if reason is not None:
        message = f"export.gguf: this base model cannot be written as GGUF, because {reason}. Omit export.gguf."
        raise TrainingError(FailureReason.INVALID_RECIPE, message)


def export_gguf(model: Path, folder: Path, recipe: ResolvedRecipe) -> Path:
    """Write the whole model in the folder `model` as one file in `folder`/gguf, and return the file."""
    assert recipe.gguf is not None
    path = folder / GGUF / f"model-{recipe.gguf}.gguf"
    path.parent.mkdir()
    write_gguf(model, path, recipe.gguf, name=recipe.job_id)
    return path


def write_gguf(model: Path, path: Path, quantization: str, name: str) -> None:
    """Write the whole model in the folder `model` as the GGUF file `path`. Matrices are quantized; vectors, such as
    norms and biases, stay float32."""
    config = AutoConfig.from_pretrained(model, trust_remote_code=False, local_files_only=True)
    matrix_type, file_type = QUANTIZATIONS[quantization]
    architecture = ARCHITECTURES[config.model_type]
    writer = GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _write_hyperparameters(writer, config)
    _write_tokenizer(writer, model, config.vocab_size)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    types: list[GGMLQuantizationType] = []
    for hf_name, shape in _shapes(model):
        gguf_name = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        assert gguf_name is not None, f"{hf_name} has no name in GGUF"
        stored = _stored_type(shape, matrix_type)
        types.append(stored)
        writer.add_tensor_info(gguf_name, shape, np.dtype(np.float32), _stored_bytes(shape, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for stored, (hf_name, tensor) in zip(types, _tensors(model), strict=True):
        ordered = _interleave_heads(hf_name, tensor, config) if architecture == gguf.MODEL_ARCH.LLAMA else tensor
        writer.write_tensor_data(gguf.quants.quantize(np.ascontiguousarray(ordered), stored))
    writer.close()


def _unsupported(config: dict[str, Any]) -> str | None:
    """Return why a model with this config cannot be written as a GGUF file, as the end of a sentence with "because";
    None if it can be."""
    if config["model_type"] not in ARCHITECTURES:
        return f"only the families {', '.join(ARCHITECTURES)} are supported"
    if (config.get("rope_parameters") or {}).get("rope_type", "default") != "default":
        return "its rotary embeddings are scaled"
    windowed = config.get("use_sliding_window", True) and config.get("sliding_window") is not None
    if windowed:
        return "its attention has a sliding window"
    if config.get("mlp_bias") or (config.get("attention_bias") and config["model_type"] != "qwen2"):
        return "its layers have biases"
    if config["hidden_act"] != "silu":
        return f"its activation is {config['hidden_act']}"
    return None


def _pre_tokenizer_name(tokenizer: dict[str, Any]) -> str | None:
    """Return llama.cpp's name for the pre-tokenization of a tokenizer.json, or None if it has none."""
    model, normalizer, pre_tokenizer = tokenizer["model"], tokenizer["normalizer"], tokenizer["pre_tokenizer"] or {}
    parts = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    last = parts[-1]
    byte_level_bpe = model["type"] == "BPE" and not model.get("byte_fallback") and last.get("type") == "ByteLevel"
    if not byte_level_bpe or last["add_prefix_space"]:
        return None
    splits: list[str] = []
    for part in parts:
        if part["type"] == "Split" and part["behavior"] == "Isolated" and not part["invert"]:
            splits.append(part["pattern"].get("Regex", ""))
        elif part["type"] == "Digits" and part["individual_digits"]:
            splits.append("Digits")
        elif part is last:
            splits += ["ByteLevel"] if last["use_regex"] else []
        else:
            return None
    return PRE_TOKENIZERS.get((normalizer and normalizer["type"], tuple(splits), bool(model.get("ignore_merges"))))


def _write_hyperparameters(writer: GGUFWriter, config: PreTrainedConfig) -> None:
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
    """Write the vocabulary and the special tokens.

    `rows`: number of embeddings. A model may have more of them than its tokenizer has tokens.
    """
    tokenizer = json.loads((model / "tokenizer.json").read_bytes())
    texts = {token_id: text for text, token_id in tokenizer["model"]["vocab"].items()}
    types = dict.fromkeys(texts, TokenType.NORMAL)
    for added in tokenizer["added_tokens"]:
        texts[added["id"]] = added["content"]
        types[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    pre_tokenizer = _pre_tokenizer_name(tokenizer)
    assert pre_tokenizer is not None, "require_exportable refuses other tokenizers"
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list([texts.get(token_id, f"[PAD{token_id}]") for token_id in range(rows)])
    writer.add_token_types([types.get(token_id, TokenType.UNUSED) for token_id in range(rows)])
    special = gguf.SpecialVocab(model, load_merges=True, n_vocab=rows)
    first = Tokenizer.from_file(str(model / "tokenizer.json")).encode("a").ids[0]
    special.add_special_token = {"bos": first == special.special_token_ids.get("bos"), "eos": False}
    special.add_to_gguf(writer, quiet=True)
    end_tokens = EndTokens.load(model)
    end_of_turn = next((token_id for token_id in end_tokens.chat_tail if token_id in end_tokens.stops), None)
    if end_of_turn not in (None, special.special_token_ids.get("eos")) and "eot" not in special.special_token_ids:
        writer.add_eot_token_id(end_of_turn)  # llama.cpp finds only common end tokens by their text


def _files(model: Path) -> list[Path]:
    return sorted(model.glob("model*.safetensors"))


def _shapes(model: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    for path in _files(model):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                yield name, tuple(file.get_slice(name).get_shape())


def _tensors(model: Path) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Yield the tensors one at a time, in the order of `_shapes`."""
    for path in _files(model):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name).to(torch.float32).numpy()


def _stored_type(shape: tuple[int, ...], matrix_type: GGMLQuantizationType) -> GGMLQuantizationType:
    """Return the type in which a tensor is stored. For Q8_0, a matrix whose row length is not a multiple of Q8_BLOCK
    becomes float16."""
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    whole_blocks = shape[-1] % Q8_BLOCK == 0
    return matrix_type if whole_blocks or matrix_type is not GGMLQuantizationType.Q8_0 else GGMLQuantizationType.F16


def _stored_bytes(shape: tuple[int, ...], stored: GGMLQuantizationType) -> int:
    block, size = gguf.GGML_QUANT_SIZES[stored]
    return int(np.prod(shape)) // block * size


def _interleave_heads(name: str, tensor: npt.NDArray[np.float32], config: PreTrainedConfig) -> npt.NDArray[np.float32]:
    """Return a query or key projection with the rows of each head reordered from (half, pair) to (pair, half).

    Rotary embeddings rotate pairs of a head's dimensions: i and i + d/2 in transformers, 2i and 2i + 1 in llama.cpp's
    Llama. Other tensors are returned unchanged.
    """
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    return tensor.reshape(heads, 2, -1, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
