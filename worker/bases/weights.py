"""Checks of a base model's safetensors: all tensors are present, finite and of a type that can be trained."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from worker.bases.files import Refused, read_object

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
CHUNK = 1 << 24
"""How many numbers of a tensor are checked at once."""
BUFFERS = re.compile(r"\.(att(entio)?n\.(bias|masked_bias|causal_mask)|inv_freq|position_ids)$")
"""Names of constants that old checkpoints, such as Pythia's, store with the weights. They do not count as weights."""
LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
LAYERS_A_TENSOR = 8
"""Largest plausible number of layers for each tensor. Most models have ten tensors for each layer, but in some
families, layers share tensors."""


class Tensor(NamedTuple):
    shape: tuple[int, ...]
    dtype: str
    """The type in safetensors' notation: F32, BF16, I64, …"""


@dataclass(frozen=True)
class Weights:
    parameters: int
    """Number of weights. Tied weights count once."""
    dtype: str


def check_weights(folder: Path) -> Weights:
    """Check the folder's safetensors files. Return the number and type of the weights. Raise Refused if tensors are
    missing, damaged or of a type that cannot be trained."""
    shards = _shards(folder)
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        tensors |= _read_header(folder / shard)
    _require_indexed(folder, shards, tensors)
    for extra in folder.glob("model*.safetensors"):
        if extra.name not in shards:
            extra.unlink()
    config = read_object(folder / "config.json")
    _require_layers(config, len(tensors))
    parameters: Counter[str] = Counter()
    for name in _counted(tensors, tied=config.get("tie_word_embeddings", False)):
        parameters[tensors[name].dtype] += math.prod(tensors[name].shape)
    if unusual := sorted(parameters.keys() - DTYPES.keys()):
        raise Refused(f"the weights are of type {unusual[0]}, which cannot be trained: use the unquantized model")
    if not parameters:
        raise Refused("the safetensors files hold no weights")
    for shard in shards:
        _require_finite(folder / shard)
    return Weights(parameters.total(), DTYPES[parameters.most_common(1)[0][0]])


def require_layers(layers: int, tensors: int) -> None:
    """Raise Refused if there are implausibly many layers for the number of tensors: creating ten million layers would
    take hours."""
    if layers < 0 or layers > LAYERS_A_TENSOR * tensors:
        raise Refused(
            f"the configuration requires {layers} layers, but the weights are {tensors} tensors: the file is damaged"
        )


def _require_layers(config: Mapping[str, object], tensors: int) -> None:
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for name in LAYERS:
            if isinstance(layers := part.get(name), int):
                require_layers(layers, tensors)


def _shards(folder: Path) -> list[str]:
    if (folder / "model.safetensors").exists():
        (folder / "model.safetensors.index.json").unlink(missing_ok=True)
        return ["model.safetensors"]
    weight_map = read_object(folder / "model.safetensors.index.json").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise Refused("model.safetensors.index.json has no weight_map")
    shards = sorted({str(shard) for shard in weight_map.values()})
    for shard in shards:
        if not re.fullmatch(r"model-[\w-]+\.safetensors", shard):
            raise Refused(f"model.safetensors.index.json names {shard!r}, but shards are named model-….safetensors")
        if not (folder / shard).exists():
            raise Refused(f"model.safetensors.index.json names {shard}, which is missing")
    return shards


def _require_indexed(folder: Path, shards: list[str], tensors: dict[str, Tensor]) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return
    content = read_object(index)
    if missing := sorted(content["weight_map"].keys() - tensors.keys()):
        raise Refused(f"tensor {missing[0]} is in none of the {len(shards)} shards")
    if not isinstance(content.get("metadata"), dict):  # without it, transformers fails
        index.write_text(json.dumps(content | {"metadata": {}}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _counted(tensors: dict[str, Tensor], *, tied: bool) -> Iterable[str]:
    for name in tensors:
        if BUFFERS.search(name) or (tied and name == "lm_head.weight" and len(tensors) > 1):
            continue
        yield name


def _read_header(path: Path) -> dict[str, Tensor]:
    """Return the shape and type of each tensor of a file. safetensors itself checks that sizes match shapes, and that
    the tensors fill the file without gap or overlap. Raise Refused if the file fails that check."""
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            slices = {name: file.get_slice(name) for name in names}
            return {name: Tensor(tuple(each.get_shape()), each.get_dtype()) for name, each in slices.items()}
    except (SafetensorError, OSError) as error:
        raise Refused(f"{path.name} is not a safetensors file, or is cut short or damaged: {error}") from None


def _require_finite(path: Path) -> None:
    """Raise Refused if a weight is NaN or infinite: otherwise the first job on the base model would fail."""
    with safe_open(path, framework="pt") as file:
        names = file.keys()
        for name in names:
            tensor = file.get_tensor(name)
            if not tensor.is_floating_point() or BUFFERS.search(name):
                continue
            for part in tensor.flatten().split(CHUNK):
                if not torch.isfinite(part).all():
                    raise Refused(f"tensor {name} holds a NaN or an infinite number: the file is damaged")
