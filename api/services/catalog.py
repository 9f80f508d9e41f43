"""The catalogue of techniques, methods, formats and graders, with their schemas, and this server's base models."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from api.context import Context
from api.records import base_models
from api.records.base_models import BaseModelRow
from api.spec import catalog
from api.spec.catalog import Combination


@dataclass(frozen=True)
class Choices:
    techniques: list[dict[str, Any]]
    methods: list[dict[str, Any]]
    formats: list[dict[str, Any]]
    graders: list[dict[str, Any]]
    combinations: list[Combination]
    base_models: Sequence[BaseModelRow]


def choices(context: Context) -> Choices:
    with context.database.read() as session:
        bases = base_models.listed(session)
    return Choices(
        _techniques(),
        _methods(),
        list(catalog.format_entries()),
        _graders(),
        list(catalog.combinations()),
        bases,
    )


@cache
def _techniques() -> list[dict[str, Any]]:
    return [
        _entry(name, technique)
        | {
            "default_learning_rate": technique.default_learning_rate,
            "merges": technique.merges,
            "quantises": technique.quantizes,
        }
        for name, technique in catalog.TECHNIQUES.items()
    ]


@cache
def _methods() -> list[dict[str, Any]]:
    return [
        _entry(name, method)
        | {
            "formats": sorted(method.formats),
            "kinds": sorted(method.kinds),
            "output": method.output,
            "rollouts": method.rollouts,
        }
        for name, method in catalog.METHODS.items()
    ]


@cache
def _graders() -> list[dict[str, Any]]:
    return [_entry(name, grader) for name, grader in catalog.GRADERS.items()]


def _entry(name: str, kind: Any) -> dict[str, Any]:
    return {
        "type": name,
        "summary": kind.summary,
        "description": " ".join((kind.__doc__ or "").split()),
        "schema": kind.model_json_schema(),
    }
