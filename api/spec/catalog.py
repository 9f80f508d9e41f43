"""The catalogues of techniques, methods and graders by name, and the combinations of technique, method and kind of base
model that can be trained. Pure: no database, no HTTP."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from api.spec.base_model import BaseModelFacts, ModelKind
from api.spec.graders import Grader, GraderBase
from api.spec.methods import Method, MethodBase
from api.spec.techniques import Technique, TechniqueBase


def _members(union: object) -> dict[str, Any]:
    """Return {`type`: class} for the classes of a discriminated union."""
    classes = get_args(get_args(union)[0])
    return {get_args(entry.model_fields["type"].annotation)[0]: entry for entry in classes}


TECHNIQUES: Mapping[str, type[TechniqueBase]] = _members(Technique)
METHODS: Mapping[str, type[MethodBase]] = _members(Method)
GRADERS: Mapping[str, type[GraderBase]] = _members(Grader)
KINDS: tuple[ModelKind, ...] = get_args(ModelKind)

KIND_WORDS: Mapping[ModelKind, str] = {"causal_lm": "a language model", "encoder": "an encoder"}


@dataclass(frozen=True)
class Combination:
    technique: str
    method: str
    kind: ModelKind
    reason: str | None
    """Why the combination cannot be trained; None if it can."""
    families: frozenset[str] | None
    """Families of base models (`model_type`) that support the combination, if only some do. None: all families of the
    kind."""


@dataclass(frozen=True)
class Refusal:
    """Why a technique and a method do not work on a base model, and the field of the recipe to change."""

    param: str
    message: str


def combinations() -> Iterator[Combination]:
    """Yield every combination of technique, method and kind of base model, including those that cannot be trained."""
    for kind in KINDS:
        for method, entry in METHODS.items():
            reason = None if kind in entry.kinds else _kind_refusal(method, kind)
            for technique, trains in TECHNIQUES.items():
                families = trains.families.get(kind) if reason is None else None
                yield Combination(technique, method, kind, reason, families)


def refusal(technique: TechniqueBase, method: MethodBase, facts: BaseModelFacts) -> Refusal | None:
    """Return why this technique and method cannot train the base model with these facts; None if they can.

    The facts of base models that were added before encoders were supported have no `kind`: they are language models.
    """
    kind: ModelKind = facts.get("kind", "causal_lm")
    if kind not in method.kinds:
        return Refusal("method.type", _kind_refusal(method.type, kind))
    if method.output != "tokens" and not facts.get("classifies", True):
        legal = _alternatives(
            name for name, entry in METHODS.items() if entry.output == "tokens" and kind in entry.kinds
        )
        message = f"'{method.type}' needs a head for labels, which transformers does not have "
        message += f"for the family {facts['model_type']}: "
        return Refusal("method.type", message + f"use {legal}, or another base model")
    family = facts["model_type"]
    families = technique.families.get(kind)
    if families is not None and family not in families and not technique.names_layers:
        legal = _alternatives(
            name for name, entry in TECHNIQUES.items() if family in entry.families.get(kind, {family})
        )
        message = f"'{technique.type}' cannot be trained on models of the family {family}, only on "
        return Refusal("technique.type", message + f"{_alternatives(families)}: use {legal}")
    return None


def method_of(name: object) -> type[MethodBase] | None:
    """Return the method of this name; None for a value that names no method."""
    return METHODS.get(name) if isinstance(name, str) else None


def _kind_refusal(method: str, kind: ModelKind) -> str:
    legal = _alternatives(name for name, entry in METHODS.items() if kind in entry.kinds)
    return f"'{method}' cannot train {KIND_WORDS[kind]}, which does not predict a next token: use {legal}"


def _alternatives(names: Iterable[str]) -> str:
    return " or ".join([", ".join(listed[:-1]), listed[-1]] if len(listed := sorted(names)) > 1 else listed)
