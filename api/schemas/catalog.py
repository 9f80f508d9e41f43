"""What `GET /v1/fine_tuning/catalog` answers."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from api.services.catalog import Choices
from api.spec.base_model import ModelKind
from api.spec.methods import Output


class Entry(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    type: str
    summary: str
    description: str
    """With the formulas and the papers."""
    json_schema: dict[str, Any] = Field(alias="schema")
    """JSON Schema of the object in a job's body."""


class TechniqueEntry(Entry):
    default_learning_rate: float
    merges: bool
    """`export.merged` can be had."""
    quantises: bool


class MethodEntry(Entry):
    formats: list[str]
    """Of the rows that it can learn from."""
    kinds: list[ModelKind]
    output: Output
    rollouts: bool
    """It learns from what the model samples."""


class FormatEntry(BaseModel):
    type: str
    summary: str
    required: list[list[str]]
    """Sets of keys: a row of this format has all of one of them."""
    optional: list[str]
    example: dict[str, Any]
    methods: list[str]
    """Those that can learn from it."""


class CombinationEntry(BaseModel):
    technique: str
    method: str
    kind: ModelKind
    legal: bool
    reason: str | None
    """Why not."""
    families: list[str] | None
    """The only families of base models (`model_type`) that it is for; null for all of that kind."""


class BaseModelEntry(BaseModel):
    id: str
    kind: ModelKind
    facts: dict[str, Any]


class CatalogObject(BaseModel):
    object: Literal["fine_tuning.catalog"] = "fine_tuning.catalog"
    techniques: list[TechniqueEntry]
    methods: list[MethodEntry]
    formats: list[FormatEntry]
    graders: list[Entry]
    base_models: list[BaseModelEntry]
    combinations: list[CombinationEntry]

    @classmethod
    def of(cls, choices: Choices) -> Self:
        return cls(
            techniques=[TechniqueEntry.model_validate(entry) for entry in choices.techniques],
            methods=[MethodEntry.model_validate(entry) for entry in choices.methods],
            formats=[FormatEntry.model_validate(entry) for entry in choices.formats],
            graders=[Entry.model_validate(entry) for entry in choices.graders],
            base_models=[
                BaseModelEntry(id=base.name, kind=base.facts.get("kind", "causal_lm"), facts=base.facts)
                for base in choices.base_models
            ],
            combinations=[
                CombinationEntry(
                    technique=each.technique,
                    method=each.method,
                    kind=each.kind,
                    legal=each.reason is None,
                    reason=each.reason,
                    families=None if each.families is None else sorted(each.families),
                )
                for each in choices.combinations
            ],
        )
