"""The response of `GET /v1/fine_tuning/catalog`."""

from functools import cache
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from api.services.catalog import Choices
from api.spec.base_model import ModelKind
from api.spec.catalog import GRADERS, METHODS, TECHNIQUES
from api.spec.fields import JsonObject
from api.spec.formats import FORMATS
from api.spec.graders import GraderBase
from api.spec.methods import MethodBase, Output
from api.spec.recipe import Recipe
from api.spec.techniques import TechniqueBase

_Class = type[TechniqueBase] | type[MethodBase] | type[GraderBase]


class Entry(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    type: str
    summary: str
    description: str
    """A longer description, with formulas and papers."""
    json_schema: dict[str, object] = Field(alias="schema")
    """The JSON Schema of the object in a job's body."""

    @classmethod
    def of(cls, name: str, kind: _Class, **own: object) -> Self:
        """Return the entry of a class of a catalogue. `own`: values of the fields that a subclass of Entry adds."""
        description = " ".join((kind.__doc__ or "").split())
        schema = kind.model_json_schema()
        return cls(type=name, summary=kind.summary, description=description, json_schema=schema, **own)


class TechniqueEntry(Entry):
    default_learning_rate: float
    merges: bool
    """Whether `export.merged` is available."""
    quantises: bool


class MethodEntry(Entry):
    formats: list[str]
    """Row formats that the method can train on."""
    kinds: list[ModelKind]
    output: Output
    rollouts: bool
    """Whether the method trains on the model's own samples."""


class FormatEntry(BaseModel):
    type: str
    summary: str
    required: list[list[str]]
    """Alternative sets of keys; a row has all keys of one set."""
    optional: list[str]
    example: dict[str, object]
    methods: list[str]
    """Methods that can train on the format."""


class CombinationEntry(BaseModel):
    technique: str
    method: str
    kind: ModelKind
    legal: bool
    reason: str | None
    """Why the combination is not legal; null if it is legal."""
    families: list[str] | None
    """Families of base models (`model_type`) that support the combination, if only some do. Null: all families of
    `kind`."""


class BaseModelEntry(BaseModel):
    id: str
    kind: ModelKind
    facts: dict[str, object]


class CatalogObject(BaseModel):
    object: Literal["fine_tuning.catalog"] = "fine_tuning.catalog"
    techniques: list[TechniqueEntry]
    methods: list[MethodEntry]
    formats: list[FormatEntry]
    graders: list[Entry]
    base_models: list[BaseModelEntry]
    judges: list[str]
    """Judges on other servers that graders may name, besides chat models of this server."""
    combinations: list[CombinationEntry]
    job: JsonObject
    """The JSON Schema of a job's body without `method` and `technique`: each method and technique above has a schema of
    its own."""

    @classmethod
    def of(cls, choices: Choices) -> Self:
        return cls(
            techniques=_techniques(),
            methods=_methods(),
            formats=_formats(),
            graders=_graders(),
            base_models=[
                BaseModelEntry(id=base.name, kind=base.facts.get("kind", "causal_lm"), facts=base.facts)
                for base in choices.base_models
            ],
            judges=choices.judges,
            combinations=[
                CombinationEntry(
                    technique=combination.technique,
                    method=combination.method,
                    kind=combination.kind,
                    legal=combination.reason is None,
                    reason=combination.reason,
                    families=None if combination.families is None else sorted(combination.families),
                )
                for combination in choices.combinations
            ],
            job=_job(),
        )


@cache
def _techniques() -> list[TechniqueEntry]:
    return [
        TechniqueEntry.of(
            name,
            technique,
            default_learning_rate=technique.default_learning_rate,
            merges=technique.merges,
            quantises=technique.quantizes,
        )
        for name, technique in TECHNIQUES.items()
    ]


@cache
def _methods() -> list[MethodEntry]:
    return [
        MethodEntry.of(
            name,
            method,
            formats=sorted(method.formats),
            kinds=sorted(method.kinds),
            output=method.output,
            rollouts=method.rollouts,
        )
        for name, method in METHODS.items()
    ]


@cache
def _formats() -> list[FormatEntry]:
    return [
        FormatEntry(
            type=name,
            summary=entry.summary,
            required=[sorted(keys) for keys in entry.required],
            optional=sorted(entry.optional),
            example=dict(entry.example),
            methods=[method for method, trains in METHODS.items() if name in trains.formats],
        )
        for name, entry in FORMATS.items()
    ]


@cache
def _graders() -> list[Entry]:
    return [Entry.of(name, grader) for name, grader in GRADERS.items()]


@cache
def _job() -> JsonObject:
    schema = Recipe.model_json_schema()
    properties = schema["properties"]
    for name in ("method", "technique", "hyperparameters"):  # `hyperparameters` is deprecated: methods have their own
        del properties[name]
    schema["$defs"] = _referenced(properties, schema["$defs"])
    return schema


def _referenced(node: object, definitions: JsonObject) -> JsonObject:
    """Return the definitions that the schema refers to, directly or through others."""
    found: JsonObject = {}
    left = [node]
    while left:
        match left.pop():
            case {"$ref": str() as reference}:
                name = reference.rpartition("/")[2]
                if name not in found:
                    found[name] = definitions[name]
                    left.append(found[name])
            case dict() as fields:
                left += fields.values()
            case list() as items:
                left += items
    return found
