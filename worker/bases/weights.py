"""The safetensors of a base model: whole, of numbers that can be trained, and counted. Reads headers only."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.bases.files import Refused, read_object

MAX_HEADER_BYTES = 100_000_000
"""As the safetensors library has it."""
DTYPES = {"F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2), "F64": ("float64", 8)}
OTHER_SIZES = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "U16": 2, "U32": 4, "U64": 8}
BUFFERS = re.compile(r"\.(attn\.bias|attn\.masked_bias|inv_freq|position_ids)$")
"""Constants that old checkpoints store beside the weights."""


@dataclass(frozen=True)
class Weights:
    parameters: int
    """Weights that are tied are counted once."""
    dtype: str


def check_weights(folder: Path) -> Weights:
    shards = _shards(folder)
    tensors: dict[str, dict[str, Any]] = {}
    for shard in shards:
        tensors |= _read_header(folder / shard)
    _require_indexed(folder, shards, tensors)
    for extra in folder.glob("model*.safetensors"):
        if extra.name not in shards:
            extra.unlink()
    parameters: Counter[str] = Counter()
    for name in _counted(tensors, tied=read_object(folder / "config.json").get("tie_word_embeddings", False)):
        parameters[tensors[name]["dtype"]] += math.prod(tensors[name]["shape"])
    if unusual := sorted(parameters.keys() - DTYPES.keys()):
        raise Refused(f"its weights are of type {unusual[0]}: give the model before it was quantised")
    if not parameters:
        raise Refused("its safetensors hold no weights")
    return Weights(parameters.total(), DTYPES[parameters.most_common(1)[0][0]][0])


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
            raise Refused(f"model.safetensors.index.json names {shard!r}, which is no shard of a model")
        if not (folder / shard).exists():
            raise Refused(f"{shard} is missing, which model.safetensors.index.json names")
    return shards


def _require_indexed(folder: Path, shards: list[str], tensors: dict[str, Any]) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return
    if missing := sorted(read_object(index)["weight_map"].keys() - tensors.keys()):
        raise Refused(f"tensor {missing[0]} is in none of the {len(shards)} shards")


def _counted(tensors: dict[str, Any], *, tied: bool) -> Iterable[str]:
    for name in tensors:
        if BUFFERS.search(name) or (tied and name == "lm_head.weight" and len(tensors) > 1):
            continue
        yield name


def _read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Name to {dtype, shape, data_offsets}, checked against the file's size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise Refused(f"{path.name} is not a safetensors file, or is cut short")
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        whole = all(_size_fits(entry) for entry in header.values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Refused(f"{path.name} is not a safetensors file") from None
    if not whole or 8 + length + end != size:
        raise Refused(f"{path.name} is cut short or damaged")
    return dict(header)


def _size_fits(entry: dict[str, Any]) -> bool:
    begin, end = entry["data_offsets"]
    width = DTYPES.get(entry["dtype"], ("", OTHER_SIZES.get(entry["dtype"])))[1]
    return bool(0 <= begin <= end and (width is None or end - begin == width * math.prod(entry["shape"])))
