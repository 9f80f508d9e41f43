"""The tensors of a safetensors file: their shapes, and whether their values are finite. Needs no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from api.spec import patterns
from api.spec.safetensors_header import read_header

CHUNK = 1 << 24
"""Values that are checked at a time."""
EXPONENT_BITS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}
"""Floating types as unsigned integers, with the mask of their exponent: where all of its bits are set, the value is
infinite or not a number."""


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]
    """Its bytes, mapped from the file."""

    def finite(self) -> bool:
        """Return whether all values are finite. Integers always are."""
        if self.dtype not in EXPONENT_BITS:
            return True
        unsigned, mask = EXPONENT_BITS[self.dtype]
        values = self.data.view(unsigned)
        chunks = (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))
        return not any(((chunk & chunk.dtype.type(mask)) == mask).any() for chunk in chunks)


def read_tensors(path: Path) -> Iterator[Tensor]:
    """Yield the tensors of a file. Raises HeaderError."""
    header = read_header(path)
    content = np.memmap(path, np.uint8, "r")
    for name, entry in header.tensors.items():
        yield Tensor(name, entry.dtype, entry.shape, np.asarray(content[entry.begin : entry.end]))


def check_lora_shapes(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> list[str]:
    """Where a LoRA adapter's factors are not those that adapter_config.json speaks of: B [out, r], A [r, in]."""
    tensors = bool(config.get("target_parameters"))
    modules = {name: name.partition(".lora_A")[0] for name in sorted(shapes) if "lora_A" in name}
    ranks = _ranks(config, tuple(modules.values()))
    trouble = []
    for name, module in modules.items():
        shape, other = shapes[name], shapes.get(name.replace("lora_A", "lora_B"))
        rank = ranks[module] if ranks is not None else next(iter(shape), None)
        if other is None:
            trouble.append(f"{name} has no lora_B")
        elif len(shape) < 2 or len(other) < 2 or not _of_rank(shape[0], other[1], rank, experts=tensors):
            trouble.append(f"{name} {list(shape)} and its lora_B {list(other)} are not of rank {rank}")
    return trouble


def _of_rank(one: int, other: int, rank: Any, *, experts: bool) -> bool:
    """`experts`: the factors of all experts of a layer stand beside each other, and which tensor they are of, and so of
    which rank, is not in their names."""
    return one == other and (one == rank or experts)


def _ranks(config: Mapping[str, Any], modules: tuple[str, ...]) -> dict[str, Any] | None:
    """As peft finds them: by the first pattern that a module's name, or an end of it, matches; else r. None where a
    pattern needs an engine whose time has no bound (those of older releases may): then any rank may be right."""
    given = config.get("rank_pattern")
    given = given if isinstance(given, dict) else {}
    try:
        found = patterns.first_of_end(tuple(given), modules)
    except patterns.BadPattern:
        return None
    return {module: given[found[module]] if module in found else config.get("r") for module in modules}
