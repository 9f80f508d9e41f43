"""Which layers of a base model a technique adapts.

By this an estimate counts, a job is accepted or refused, and the trainer names the layers to peft.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from api import patterns
from api.techniques.base import ALL_LINEAR
from api.techniques.ia3 import Ia3
from api.techniques.lora import Lora

OUTSIDE = frozenset({"classifier", "head", "pooler", "pre_classifier", "score"})
"""First names of what classifiers have on top of the base model: trained and published whole, by any technique."""
NAMED = 24
"""Layers that a message lists at most."""
FIELD = "technique.target_modules"


class NoPlace(ValueError):
    """The technique finds nothing in this base model to work on."""

    def __init__(self, message: str, param: str = "technique") -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Matrix:
    name: str
    kind: str
    """linear, embedding, head, or tied: a head that shares its weights with the input embeddings."""
    inputs: int
    outputs: int

    @property
    def size(self) -> int:
        return self.inputs * self.outputs


def lora_layers(technique: Lora, layers: Sequence[Matrix], *, scores: bool) -> list[Matrix]:
    """Return the layers that get an update. `scores`: the model has a head for labels or rewards.

    Raises NoPlace for a name or a pattern without such a layer.
    """
    for field, given in technique.patterns().items():
        with _named(f"technique.{field}"):
            patterns.require(given)
    found = _chosen(technique.target_modules, _adaptable(layers, scores=scores))
    names = tuple(layer.name for layer in found)
    for field in ("rank_pattern", "alpha_pattern"):
        unused = patterns.unused(tuple(getattr(technique, field)), names)
        if unused is not None:
            where = f"technique.{field}"
            message = f"{where}: '{unused[:200]}' fits none of the layers that are adapted. {_listed(found)}"
            raise NoPlace(message, where)
    return found


def ranks(technique: Lora, layers: Sequence[Matrix]) -> Mapping[str, int]:
    """Return the ranks of the layers that `rank_pattern` gives one, by name."""
    found = patterns.first_of_end(tuple(technique.rank_pattern), tuple(layer.name for layer in layers))
    return {name: technique.rank_pattern[pattern] for name, pattern in found.items()}


@contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except patterns.BadPattern as error:
        raise NoPlace(f"{where}: {error}", where) from None


def ia3_layers(
    technique: Ia3, layers: Sequence[Matrix], known: Mapping[str, list[str]] | None, *, scores: bool
) -> tuple[list[Matrix], list[Matrix]]:
    """Return (the layers that are scaled, those of them that are scaled at their inputs). `known`: the family's own.

    Raises NoPlace for a name without such a layer.
    """
    targets = technique.target_modules or (known["targets"] if known else None)
    if targets is None:
        raise NoPlace(f"{FIELD}: (IA)³ knows no layers of this family: name them", FIELD)
    found = _chosen(targets, _adaptable(layers, scores=scores))
    if wrong := [layer.name for layer in found if layer.kind == "embedding"]:
        raise NoPlace(f"{FIELD}: (IA)³ scales linear layers, and {wrong[0]} is an embedding: leave it out", FIELD)
    given = technique.feedforward_modules
    for name in given or ():
        if name not in targets:
            where = "technique.feedforward_modules"
            raise NoPlace(f"{where}: '{name[:200]}' is none of target_modules, which are {', '.join(targets)}", where)
    inner = given or (known["feedforward"] if known else [])
    return found, [layer for layer in found if any(layer.name.endswith(name) for name in inner)]


def named(name: str, layer: str) -> bool:
    """peft's rule for names: the whole of it, or its end from a dot on."""
    return layer == name or layer.endswith(f".{name}")


def _adaptable(layers: Sequence[Matrix], *, scores: bool) -> list[Matrix]:
    """Without what stands on top of the base model where there is a head for labels; that for tokens is not there."""
    if not scores:
        return list(layers)
    body = (layer for layer in layers if layer.kind not in ("head", "tied"))
    return [layer for layer in body if layer.name.partition(".")[0] not in OUTSIDE]


def _chosen(targets: str | list[str], layers: Sequence[Matrix]) -> list[Matrix]:
    if targets in (ALL_LINEAR, [ALL_LINEAR]):
        found = [layer for layer in layers if layer.kind == "linear"]
    elif isinstance(targets, str):
        matched = patterns.whole(targets, tuple(layer.name for layer in layers))
        found = [layer for layer in layers if layer.name in matched]
        if not found:
            raise NoPlace(
                f"{FIELD}: '{targets[:200]}' matches none of the base model's layers. {_listed(layers)}", FIELD
            )
    else:
        missing = [name for name in targets if not any(named(name, layer.name) for layer in layers)]
        if missing:
            names = ", ".join(missing)[:200]
            message = f"{FIELD}: the base model has no layer that can be adapted called {names}. {_listed(layers)}"
            raise NoPlace(message, FIELD)
        found = [layer for layer in layers if any(named(name, layer.name) for name in targets)]
    if tied := [layer.name for layer in found if layer.kind == "tied"]:
        message = f"{FIELD}: {tied[0]} has no weights of its own, for it shares the input embeddings': leave it out"
        raise NoPlace(message, FIELD)
    return found


def _listed(layers: Sequence[Matrix]) -> str:
    names = sorted({layer.name.rpartition(".")[2] for layer in layers if layer.kind != "tied"})
    more = ", …" if len(names) > NAMED else ""
    return f"Those are {', '.join(names[:NAMED])}{more}."
