"""Which layers of a base model a technique adapts.

By this an estimate counts, a job is accepted or refused, and the trainer names the layers to peft.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from api.spec import patterns
from api.spec.techniques.base import ALL_LINEAR, TechniqueBase
from api.spec.techniques.ia3 import Ia3
from api.spec.techniques.lora import CHANGES_THE_BASE, Lora

OUTSIDE = frozenset({"classifier", "head", "pooler", "pre_classifier", "score"})
"""First names of what classifiers have on top of the base model: trained and published whole, by any technique."""
NAMED = 24
"""Layers that a message lists at most."""
FIELD = "technique.target_modules"
OF_EXPERTS = frozenset({"experts", "shared", "router", "apart"})
BARE = frozenset({"experts", "shared", "router"})
"""Kinds whose weights peft adapts as tensors (`target_parameters`), not as layers."""
SCALED_BY_NONE = {
    "embedding": "an embedding",
    "experts": "one tensor of all experts",
    "apart": "one tensor of all experts",
    "router": "a router",
}
"""Kinds that (IA)³ has nothing for."""


class NoTargetModules(ValueError):
    """The technique finds nothing in this base model to work on."""

    def __init__(self, message: str, param: str = "technique") -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Matrix:
    name: str
    kind: str
    """linear; embedding; head, or tied: a head that shares its weights with the input embeddings; experts: those of a
    layer in one tensor; shared: a linear layer beside experts that peft takes for theirs by its name; router: what
    chooses a token's experts; apart: experts that peft cannot adapt."""
    inputs: int
    outputs: int
    experts: int = 1
    active: int = 1
    """Of the experts, those that compute a token."""

    @property
    def size(self) -> int:
        return self.inputs * self.outputs * self.experts

    @property
    def used(self) -> int:
        """Weights that compute a token."""
        return self.inputs * self.outputs * self.active


def lora_layers(technique: Lora, layers: Sequence[Matrix], *, scores: bool) -> list[Matrix]:
    """Return the layers that get an update. `scores`: the model has a head for labels or rewards.

    Raises NoTargetModules for a name or a pattern without such a layer.
    """
    for field, given in technique.patterns().items():
        with _named(f"technique.{field}"):
            patterns.require(given)
    adaptable = _adaptable(layers, scores=scores)
    found = _chosen(technique.target_modules, adaptable, quantised=technique.quantises)
    _require_plain_update(technique, found, adaptable)
    names = tuple(layer.name for layer in found)
    for field in ("rank_pattern", "alpha_pattern"):
        unused = patterns.unused(tuple(getattr(technique, field)), names)
        if unused is not None:
            where = f"technique.{field}"
            message = f"{where}: '{unused[:200]}' fits none of the layers that are adapted. {_listed(found)}"
            raise NoTargetModules(message, where)
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
        raise NoTargetModules(f"{where}: {error}", where) from None


def ia3_layers(
    technique: Ia3, layers: Sequence[Matrix], known: Mapping[str, list[str]] | None, *, scores: bool
) -> tuple[list[Matrix], list[Matrix]]:
    """Return (the layers that are scaled, those of them that are scaled at their inputs). `known`: the family's own.

    Raises NoTargetModules for a name without such a layer.
    """
    adaptable = _adaptable(layers, scores=scores)
    targets = technique.target_modules or _found_names(known, adaptable)
    if not targets:
        raise NoTargetModules(f"{FIELD}: (IA)³ knows no layers of this family: name them", FIELD)
    found = _chosen(targets, adaptable)
    for layer in found:
        if layer.kind in SCALED_BY_NONE:
            what = SCALED_BY_NONE[layer.kind]
            raise NoTargetModules(
                f"{FIELD}: (IA)³ scales linear layers, and {layer.name} is {what}: leave it out", FIELD
            )
    given = technique.feedforward_modules
    for name in given or ():
        if name not in targets:
            where = "technique.feedforward_modules"
            raise NoTargetModules(
                f"{where}: '{name[:200]}' is none of target_modules, which are {', '.join(targets)}", where
            )
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


def _found_names(known: Mapping[str, list[str]] | None, layers: Sequence[Matrix]) -> list[str]:
    """Those of the family's names for (IA)³ that its layers still have: experts in one tensor have no layers."""
    scaled = [layer.name for layer in layers if layer.kind not in SCALED_BY_NONE]
    return [name for name in (known["targets"] if known else ()) if any(named(name, layer) for layer in scaled)]


def _require_plain_update(technique: Lora, found: Sequence[Matrix], layers: Sequence[Matrix]) -> None:
    """peft puts nothing but the plain update beside weights that are no layer of their own."""
    bare = next((layer for layer in found if layer.kind in BARE), None)
    if bare is None:
        return
    barred = {
        "technique.type": f"'{technique.type}'" if technique.peft().get("use_dora") else None,
        "technique.dropout": f"a dropout of {technique.dropout}" if technique.dropout else None,
        "technique.init": f"init '{technique.init}'" if technique.init in CHANGES_THE_BASE else None,
    }
    for param, what in barred.items():
        if what is not None:
            names = sorted({layer.name.rpartition(".")[2] for layer in layers if layer.kind == "linear"})
            raise NoTargetModules(
                f"{param}: {what} cannot be trained on {bare.name}, for the experts of a layer are one tensor. Leave "
                f"it at its default ('lora', 0, 'default'), or name other layers in {FIELD}: {', '.join(names)}.",
                param,
            )


def left_out(
    technique: TechniqueBase, layers: Sequence[Matrix], known: Mapping[str, list[str]] | None, *, scores: bool
) -> str | None:
    """What is to be known of experts and routers that the technique does not train though the job names no layers; None
    if there are none. `known`: the family's layers for (IA)³."""
    if isinstance(technique, Lora) and technique.target_modules in (ALL_LINEAR, [ALL_LINEAR]):
        taken = _chosen(ALL_LINEAR, _adaptable(layers, scores=scores), quantised=technique.quantises)
    elif isinstance(technique, Ia3) and technique.target_modules is None:
        taken = ia3_layers(technique, layers, known, scores=scores)[0]
    else:
        return None
    rest = [layer for layer in layers if layer.kind in OF_EXPERTS and layer not in taken]
    if not rest:
        return None
    names = sorted({".".join(layer.name.split(".")[-2:]) for layer in rest})
    count = sum(layer.size for layer in rest)
    return f"'{technique.type}' leaves out {', '.join(names)} ({count:,} weights of experts and routers)"


def _chosen(targets: str | list[str], layers: Sequence[Matrix], *, quantised: bool = False) -> list[Matrix]:
    """`quantised`: the weights of linear layers are in four bits, and no tensors to add to."""
    if targets in (ALL_LINEAR, [ALL_LINEAR]):
        kinds = {"linear", "experts"} if quantised else {"linear", "experts", "shared"}
        found = [layer for layer in layers if layer.kind in kinds]
    elif isinstance(targets, str):
        matched = patterns.whole(targets, tuple(layer.name for layer in layers))
        found = [layer for layer in layers if layer.name in matched]
        if not found:
            raise NoTargetModules(
                f"{FIELD}: '{targets[:200]}' matches none of the base model's layers. {_listed(layers)}", FIELD
            )
    else:
        missing = [name for name in targets if not any(named(name, layer.name) for layer in layers)]
        if missing:
            names = ", ".join(missing)[:200]
            message = f"{FIELD}: the base model has no layer that can be adapted called {names}. {_listed(layers)}"
            raise NoTargetModules(message, FIELD)
        found = [layer for layer in layers if any(named(name, layer.name) for name in targets)]
    if tied := [layer.name for layer in found if layer.kind == "tied"]:
        message = f"{FIELD}: {tied[0]} has no weights of its own, for it shares the input embeddings': leave it out"
        raise NoTargetModules(message, FIELD)
    if apart := [layer.name for layer in found if layer.kind == "apart" or (quantised and layer.kind == "shared")]:
        raise NoTargetModules(
            f"{FIELD}: peft cannot adapt the weights of {apart[0]} in this family: leave it out", FIELD
        )
    return found


def _listed(layers: Sequence[Matrix]) -> str:
    names = sorted({layer.name.rpartition(".")[2] for layer in layers if layer.kind not in ("tied", "apart")})
    more = ", …" if len(names) > NAMED else ""
    return f"Those are {', '.join(names[:NAMED])}{more}."
