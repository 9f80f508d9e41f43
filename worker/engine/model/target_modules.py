"""Translation of a technique's patterns into layer names for peft.

peft matches patterns by Python's `re`, which may take exponential time. Here api.spec.patterns matches them, and peft
gets the matched names.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from peft import PeftConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from torch import nn

from api.spec import patterns
from api.spec.lifecycle import FailureReason
from api.spec.target_modules import ALL_LINEAR
from worker.engine.errors import TrainingError

T = TypeVar("T")
PLAIN = re.compile(r"[\w.]+", re.ASCII)
"""A plain name, which every regular-expression engine matches alike, in linear time."""
OF_PEFT, FACTOR = "base_model.model.", ".lora_"


def not_chosen(network: nn.Module, names: Sequence[str]) -> list[str]:
    """Return the modules that peft would adapt only because their names end in a chosen name."""
    taken = set(names)
    return sorted(name for name in modules_of(network) if name not in taken and _ends(name) & taken)


def _ends(name: str) -> set[str]:
    """Return the parts of the name after each dot."""
    return {name.split(".", depth)[-1] for depth in range(1, name.count(".") + 1)}


def plain_patterns(names: Sequence[str], given: Mapping[str, T]) -> dict[str, T]:
    """Return `given`, the values by pattern of `rank_pattern` or `alpha_pattern`, in a form with which peft matches the
    same layers safely. The result is unchanged if all patterns are plain names whose order does not matter, because
    peft sorts them when it saves them. Otherwise, the names of the matched layers replace the patterns. Raise
    api.spec.patterns.BadPattern if a pattern is invalid."""
    orders = (tuple(given), tuple(sorted(given)))
    first, saved = (patterns.first_match(order, tuple(names)) for order in orders)
    if first == saved and all(PLAIN.fullmatch(pattern) for pattern in given):
        return dict(given)
    return named_values({name: name for name in names}, given)


def named_values(keys: Mapping[str, str], given: Mapping[str, T]) -> dict[str, T]:
    """Return the values in `given`, which are by pattern, by name. `keys`: for each layer, the name by which peft knows
    the layer's adapted weights."""
    found = patterns.first_match(tuple(given), tuple(keys))
    # peft uses the first match, so longer names come first: a name may be the end of a longer one.
    return {
        re.escape(keys[name]): given[found[name]] for name in sorted(found, key=lambda name: (-len(keys[name]), name))
    }


def published_config(folder: Path, network: nn.Module) -> Any:
    """Return peft's configuration of the adapter in `folder`, with names in place of patterns. Raise TrainingError if a
    pattern is invalid, or a field that must hold names holds something else."""
    config: Any = PeftConfig.from_pretrained(str(folder))
    names = modules_of(network)
    tensors = tuple(name for name, _ in network.named_parameters())
    for field in ("modules_to_save", "layers_pattern", "feedforward_modules"):
        value = getattr(config, field, None) or ()
        if not all(PLAIN.fullmatch(name) for name in ([value] if isinstance(value, str) else value)):
            message = f"adapter_config.json: {field} holds a value that is not a name."
            raise TrainingError(FailureReason.INVALID_RECIPE, message)
    targets, excluded = getattr(config, "target_modules", None), getattr(config, "exclude_modules", None)
    try:
        if isinstance(targets, str) and targets != ALL_LINEAR:
            config.target_modules = set(_adapted(folder))
        if isinstance(excluded, str):
            config.exclude_modules = sorted(patterns.full_matches(excluded, names))
        for field in ("rank_pattern", "alpha_pattern"):
            if given := getattr(config, field, None):
                setattr(config, field, plain_patterns((*names, *tensors), given))
    except patterns.BadPattern as error:
        raise TrainingError(FailureReason.INVALID_RECIPE, f"adapter_config.json: {error}.") from None
    return config


def modules_of(network: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, _ in network.named_modules() if name)


def _adapted(folder: Path) -> list[str]:
    """Return the layers that an adapter's weights belong to."""
    with safe_open(str(folder / SAFETENSORS_WEIGHTS_NAME), "np") as file:
        names = [name.partition(FACTOR)[0].removeprefix(OF_PEFT) for name in file.keys() if FACTOR in name]  # noqa: SIM118
    return sorted(set(names))
