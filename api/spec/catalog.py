"""What there is to choose from, and what goes with what: every technique, method and kind of base model. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from api.spec.base_model import BaseModelFacts, ModelKind
from api.spec.formats import FORMATS
from api.spec.graders import Grader, GraderBase
from api.spec.methods import Method, MethodBase
from api.spec.techniques import Technique, TechniqueBase


def _members(union: Any) -> dict[str, Any]:
    """The classes of a discriminated union, by their literal `type`."""
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
    """Why it cannot be trained; None if it can."""
    families: frozenset[str] | None
    """The only families of base models (`model_type`) that it is for; None for all of that kind."""


@dataclass(frozen=True)
class Refusal:
    """Why a technique and a method do not go with a base model, and which field of the recipe to change."""

    param: str
    message: str


def combinations() -> Iterator[Combination]:
    """Every technique with every method on every kind of base model."""
    for kind in KINDS:
        for method, entry in METHODS.items():
            reason = None if kind in entry.kinds else _method_bar(method, kind)
            for technique, trains in TECHNIQUES.items():
                families = trains.families.get(kind) if reason is None else None
                yield Combination(technique, method, kind, reason, families)


def refusal(technique: TechniqueBase, method: MethodBase, facts: BaseModelFacts) -> Refusal | None:
    """None if a base model of these facts can be trained so. Bases from before there were encoders have no `kind`."""
    kind: ModelKind = facts.get("kind", "causal_lm")
    if kind not in method.kinds:
        return Refusal("method.type", _method_bar(method.type, kind))
    if method.output != "tokens" and not facts.get("classifies", True):
        legal = _either(name for name, entry in METHODS.items() if entry.output == "tokens" and kind in entry.kinds)
        message = f"'{method.type}' needs a head for labels, which models of the family {facts['model_type']} have "
        message += "not: "
        return Refusal("method.type", message + f"use {legal}, or another base model")
    family = facts["model_type"]
    families = technique.families.get(kind)
    if families is not None and family not in families and not technique.names_layers:
        legal = _either(name for name, entry in TECHNIQUES.items() if family in entry.families.get(kind, {family}))
        message = f"'{technique.type}' cannot be trained on models of the family {family}, only on "
        return Refusal("technique.type", message + f"{_either(families)}: use {legal}")
    return None


def technique_of(recipe: Mapping[str, Any]) -> type[TechniqueBase]:
    """Return the class of a stored recipe's technique."""
    return TECHNIQUES[recipe["technique"]["type"]]


def method_of(name: object) -> type[MethodBase] | None:
    """The method of that name, whatever stands in a body where one should."""
    return METHODS.get(name) if isinstance(name, str) else None


def format_entries() -> Iterator[dict[str, Any]]:
    for name, entry in FORMATS.items():
        yield {
            "type": name,
            "summary": entry.summary,
            "required": [sorted(keys) for keys in entry.required],
            "optional": sorted(entry.optional),
            "example": dict(entry.example),
            "methods": [method for method, trains in METHODS.items() if name in trains.formats],
        }


def _method_bar(method: str, kind: ModelKind) -> str:
    legal = _either(name for name, entry in METHODS.items() if kind in entry.kinds)
    return f"'{method}' cannot train {KIND_WORDS[kind]}, which predicts no next token: use {legal}"


def _either(names: Any) -> str:
    return " or ".join([", ".join(listed[:-1]), listed[-1]] if len(listed := sorted(names)) > 1 else listed)
