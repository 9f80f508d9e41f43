"""The tensors of a safetensors file, read without torch: their shapes, and whether their values are finite."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from api.spec import patterns

MAX_HEADER_BYTES = 100_000_000
"""safetensors' own limit."""
CHUNK = 1 << 24
"""Values looked at together."""
EXPONENT: dict[str, tuple[str, int, int]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000, 8),
    "F32": ("<u4", 0x7F80_0000, 4),
    "F16": ("<u2", 0x7C00, 2),
    "BF16": ("<u2", 0x7F80, 2),
}
"""As unsigned integers, of so many bytes: a value whose exponent bits are all set is infinite or not a number."""
WIDTH = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1} | {
    name: width for name, (_, _, width) in EXPONENT.items()
}


class Unreadable(Exception):
    """It is no safetensors file, or a damaged one; the message says in what."""


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Any
    """Its bytes, mapped from the file."""

    def finite(self) -> bool:
        """True for whole numbers, which cannot be anything else."""
        if self.dtype not in EXPONENT:
            return True
        kind, mask, _ = EXPONENT[self.dtype]
        values = self.data.view(kind)
        chunks = (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))
        return not any(((chunk & chunk.dtype.type(mask)) == mask).any() for chunk in chunks)


def read_tensors(path: Path) -> Iterator[Tensor]:
    """Raises Unreadable."""
    if path.stat().st_size < 8:
        raise Unreadable("it ends within its header")
    content = np.memmap(path, np.uint8, "r")
    size = int.from_bytes(content[:8].tobytes(), "little")
    if size > min(MAX_HEADER_BYTES, len(content) - 8):
        raise Unreadable("it ends within its header")
    try:
        header = json.loads(content[8 : 8 + size].tobytes())
        entries = [
            (name, str(each["dtype"]), tuple(map(int, each["shape"])), *map(int, each["data_offsets"]))
            for name, each in header.items()
            if name != "__metadata__"
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Unreadable("its header is not one of safetensors") from None
    data = content[8 + size :]
    for name, dtype, shape, begin, end in entries:
        count = int(np.prod(shape, dtype=object)) if shape else 1
        if not 0 <= begin <= end <= len(data) or end - begin != count * WIDTH.get(dtype, (end - begin) / max(count, 1)):
            raise Unreadable(f"{name} has other bytes than its shape says")
        yield Tensor(name, dtype, shape, np.asarray(data[begin:end]))


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
