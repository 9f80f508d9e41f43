"""Conversion of a GGUF file into a base model: transformers reads and dequantizes the weights, which are stored as
safetensors.

Quantized weights become bfloat16, whose rounding is far finer than their quantization. Weights that the file holds as
float32, float16 or bfloat16 keep their type.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGUFReader, GGUFValueType, LlamaFileType
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from worker.bases.completeness import require_none_missing
from worker.bases.files import Refused
from worker.bases.tokenizer import load, save
from worker.bases.weights import require_layers
from worker.engine.model.families import AutoClass

MAGIC = b"GGUF"
MAX_ARRAY = 1 << 24
"""Maximum number of elements of an array in the header. The longest arrays in use, the merges of large vocabularies,
have under a million."""
UNQUANTIZED = {"ALL_F32": torch.float32, "MOSTLY_F16": torch.float16, "MOSTLY_BF16": torch.bfloat16}


def convert_gguf(path: Path, out: Path) -> tuple[str | None, str | None]:
    """Write the model and its tokenizer into the folder `out`. Return its license (None if unknown) and the
    quantization of its weights (None if they are not quantized). Raise Refused if the file cannot be read."""
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise Refused(f"{path.name} is not a GGUF file")
    try:
        reader = _BoundedReader(path)
        file_type = _file_type(reader)
        blocks = _field(reader, f"{_field(reader, 'general.architecture')}.block_count")
        require_layers(blocks or 0, len(reader.tensors))
        auto: AutoClass = AutoModelForCausalLM
        with _read_once(reader):
            model, loading = auto.from_pretrained(
                path.parent,
                gguf_file=path.name,
                dtype=UNQUANTIZED.get(file_type, torch.bfloat16),
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except Refused:
        raise
    except Exception as error:
        # gguf and transformers raise various errors for damaged files and unknown architectures.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise Refused(f"this GGUF file cannot be read: {reason}") from error
    require_none_missing(loading["missing_keys"])
    _save_model(model, out)
    save(load(path.parent, gguf_file=path.name), out)
    unquantized = file_type in UNQUANTIZED
    return _field(reader, "general.license"), None if unquantized else file_type.removeprefix("MOSTLY_")


class _BoundedReader(GGUFReader):
    """gguf's reader with limits. gguf's own reader iterates over 2^40 elements if a header states so many.

    This reader reads the file before transformers does, so that only headers of correct length reach transformers.
    """

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        found = np.dtype(dtype).newbyteorder(override_order or self.byte_order)
        if offset + found.itemsize * int(count) > len(self.data):
            raise ValueError("it is cut short, or its header is damaged")
        return np.frombuffer(self.data, found, int(count), offset)  # slices of a memmap take ten times as long

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type == GGUFValueType.ARRAY and (length := int(self._get(orig_offs + 4, np.uint64)[0])) > MAX_ARRAY:
            raise ValueError(f"its header has an array of {length} elements")
        return super()._get_field_parts(orig_offs, raw_type)


@contextmanager
def _read_once(reader: GGUFReader) -> Iterator[None]:
    """Give the reader of the file to transformers, which would read the header three times and make a map of the names
    of all layers for each layer: together half of the conversion of a small model."""
    library: Any = gguf
    before = library.GGUFReader, library.get_tensor_name_map
    library.GGUFReader, library.get_tensor_name_map = lambda _: reader, cache(library.get_tensor_name_map)
    try:
        yield
    finally:
        library.GGUFReader, library.get_tensor_name_map = before


def _file_type(reader: GGUFReader) -> str:
    """Return the name of the file's type in `LlamaFileType`. The field is optional: without it, most weights tell."""
    if (number := _field(reader, "general.file_type")) is not None:
        return LlamaFileType(number).name
    weights: Counter[str] = Counter()
    for tensor in reader.tensors:
        weights[tensor.tensor_type.name] += int(tensor.n_elements)
    (name, _), *_ = weights.most_common(1)
    return "ALL_F32" if name == "F32" else f"MOSTLY_{name}"


def _field(reader: GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    return field.contents() if field else None


def _save_model(model: PreTrainedModel, out: Path) -> None:
    # transformers' own save_pretrained refuses a model that it read from GGUF.
    weights: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:  # tied weights are stored once
            seen.add(tensor.data_ptr())
            weights[name] = tensor.contiguous()
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # safetensors makes it readable for its owner only
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    config = json.loads(model.config.to_json_string(use_diff=True))
    config["architectures"] = [type(model).__name__]
    config["dtype"] = str(model.dtype).removeprefix("torch.")
    (out / "config.json").write_text(json.dumps(config))
    generation = model.generation_config.to_diff_dict()
    for name in ("transformers_version", "_from_model_config"):
        generation.pop(name, None)
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2, sort_keys=True) + "\n")
