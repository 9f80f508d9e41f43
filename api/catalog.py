"""What there is to choose from, and what goes with what: every technique, method and kind of base model. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from api.formats import FORMATS
from api.graders import Grader, GraderBase
from api.methods import Method, MethodBase, ModelKind
from api.techniques import Technique, TechniqueBase


def _members(union: Any) -> dict[str, Any]:
    """The classes of a discriminated union, by their literal `type`."""
    classes = get_args(get_args(union)[0])
    return {get_args(entry.model_fields["type"].annotation)[0]: entry for entry in classes}


TECHNIQUES: Mapping[str, type[TechniqueBase]] = _members(Technique)
METHODS: Mapping[str, type[MethodBase]] = _members(Method)
GRADERS: Mapping[str, type[GraderBase]] = _members(Grader)
KINDS: tuple[ModelKind, ...] = get_args(ModelKind)

KIND_WORDS: Mapping[ModelKind, str] = {"causal_lm": "a language model", "encoder": "an encoder"}

ENCODERS_FOR: Mapping[str, frozenset[str]] = {
    "prefix": frozenset({"bert", "electra", "roberta", "xlm-roberta"}),
    "prompt": frozenset({"bert", "deberta-v2", "modernbert", "roberta", "xlm-roberta"}),
    "ia3": frozenset({"bert", "deberta-v2", "roberta"}),
}
"""Families (`model_type`) of encoders for which a technique was tried and works, where it does not for all of them: a
prefix needs a model that takes keys and values from before, a prompt embeddings as wide as the hidden states, (IA)³ a
family whose layers peft knows, or their names in the job."""


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
            for technique in TECHNIQUES:
                families = ENCODERS_FOR.get(technique) if kind == "encoder" and reason is None else None
                yield Combination(technique, method, kind, reason, families)


def refusal(technique: TechniqueBase, method: MethodBase, facts: Mapping[str, Any]) -> Refusal | None:
    """None if a base model of these facts can be trained so. Bases from before there were encoders have no `kind`."""
    names = {"technique": technique.type, "method": method.type}  # type: ignore[attr-defined]  # each has the literal
    kind: ModelKind = facts.get("kind", "causal_lm")
    if kind not in method.kinds:
        return Refusal("method.type", _method_bar(names["method"], kind))
    if method.output != "tokens" and not facts.get("classifies", True):
        legal = _either(name for name, entry in METHODS.items() if entry.output == "tokens" and kind in entry.kinds)
        family = facts["model_type"]
        message = f"'{names['method']}' needs a head for labels, which models of the family {family} have not: "
        return Refusal("method.type", message + f"use {legal}, or another base model")
    families = ENCODERS_FOR.get(names["technique"])
    named = getattr(technique, "target_modules", None) is not None
    if kind == "encoder" and families is not None and facts["model_type"] not in families and not named:
        legal = _either(
            name for name in TECHNIQUES if facts["model_type"] in ENCODERS_FOR.get(name, facts["model_type"])
        )
        message = f"'{names['technique']}' cannot be trained on encoders of the family {facts['model_type']}, only on "
        return Refusal("technique.type", message + f"{_either(families)}: use {legal}")
    return None


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
