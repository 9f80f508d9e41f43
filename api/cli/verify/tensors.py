"""The tensors of a safetensors file: their shapes, and whether their values are finite. Needs no torch."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from api.spec import patterns
from api.spec.fields import JsonObject
from api.spec.manifest import Manifest
from api.spec.safetensors_header import HeaderError, read_header

WEIGHTS = ".safetensors"
"""Suffix of the files that hold weights."""
ADAPTER_CONFIG = "adapter_config.json"
CHUNK = 1 << 24
"""Number of values that are checked at a time."""
EXPONENT_BITS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}
"""{floating-point type: (unsigned integer of the same size, mask of the exponent's bits)}. A value whose exponent has
all bits set is infinite or not a number."""


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]
    """The tensor's bytes, mapped from the file."""

    def finite(self) -> bool:
        """Return whether all values are finite. Integers always are."""
        if self.dtype not in EXPONENT_BITS:
            return True
        unsigned, mask = EXPONENT_BITS[self.dtype]
        values = self.data.view(unsigned)
        chunks = (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))
        return not any(((chunk & chunk.dtype.type(mask)) == mask).any() for chunk in chunks)


def read_tensors(path: Path) -> Iterator[Tensor]:
    """Yield the tensors of a file. Raises HeaderError if the file has no valid header."""
    header = read_header(path)
    content = np.memmap(path, np.uint8, "r")
    for name, entry in header.tensors.items():
        yield Tensor(name, entry.dtype, entry.shape, np.asarray(content[entry.begin : entry.end]))


def check_lora_shapes(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, object]) -> list[str]:
    """Return a message for each LoRA factor whose shape contradicts adapter_config.json: B is [out, r] and A is [r,
    in]."""
    on_experts = bool(config.get("target_parameters"))
    modules = {name: name.partition(".lora_A")[0] for name in sorted(shapes) if "lora_A" in name}
    ranks = _ranks(config, tuple(modules.values()))
    problems = []
    for name, module in modules.items():
        shape_a, shape_b = shapes[name], shapes.get(name.replace("lora_A", "lora_B"))
        rank = ranks[module] if ranks is not None else next(iter(shape_a), None)
        if shape_b is None:
            problems.append(f"{name} has no lora_B")
        elif len(shape_a) < 2 or len(shape_b) < 2 or not _has_rank(shape_a[0], shape_b[1], rank, experts=on_experts):
            problems.append(f"{name} {list(shape_a)} and its lora_B {list(shape_b)} do not have rank {rank}")
    return problems


def _has_rank(a: int, b: int, rank: object, *, experts: bool) -> bool:
    """Return whether both factors have the rank.

    `experts`: whether the factors belong to experts. The factors of all experts of a layer are stacked. Their names
    identify neither the adapted tensor nor its rank, so the check is only that both have the same rank.
    """
    return a == b and (a == rank or experts)


def _ranks(config: Mapping[str, object], modules: tuple[str, ...]) -> dict[str, object] | None:
    """Return the rank of each module, as peft does: the rank of the first pattern that matches the module's name or a
    suffix of it, or else r.

    Return None if api.spec.patterns cannot apply a pattern, for example one of an older release. The ranks are then
    unknown.
    """
    rank_pattern = config.get("rank_pattern")
    rank_pattern = rank_pattern if isinstance(rank_pattern, dict) else {}
    try:
        matched = patterns.first_match(tuple(rank_pattern), modules)
    except patterns.BadPattern:
        return None
    return {module: rank_pattern[matched[module]] if module in matched else config.get("r") for module in modules}


def check_tensors(folder: Path, manifest: Manifest) -> tuple[list[str], int, int]:
    """Return (problems, number of tensors, number of values) of the weights. Their hashes are checked elsewhere."""
    problems: list[str] = []
    shapes: dict[str, tuple[int, ...]] = {}
    values = 0
    for entry in manifest.files:
        path = folder / entry.name
        if not entry.name.endswith(WEIGHTS) or not path.is_file():
            continue
        try:
            for tensor in read_tensors(path):
                shapes[tensor.name] = tensor.shape
                values += math.prod(tensor.shape)
                if not tensor.finite():
                    problems.append(f"{entry.name}: {tensor.name} holds values that are not finite")
        except HeaderError as error:
            problems.append(f"{entry.name} cannot be read: {error}")
    if not shapes and manifest.kind != "gguf":
        problems.append("there are no weights")
    return problems + _shape_problems(folder, shapes), len(shapes), values


def _shape_problems(folder: Path, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    config = _read_object(folder / ADAPTER_CONFIG)
    index = _read_object(folder / "model.safetensors.index.json").get("weight_map", {})
    missing = [f"{name} is listed in the index, but no file holds it" for name in sorted(index.keys() - shapes.keys())]
    return missing + (check_lora_shapes(shapes, config) if config.get("peft_type") == "LORA" else [])


def _read_object(path: Path) -> JsonObject:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
