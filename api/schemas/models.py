"""Models and their artifacts."""

from typing import Literal, Self

from pydantic import BaseModel

from api.schemas.stored import StoredJson
from api.services.models import ModelSummary


class ModelObject(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    facts: StoredJson
    """Properties of a base model. For a fine-tuned model or a checkpoint: its base model, job, technique, method and
    output (tokens, labels or a reward)."""

    @classmethod
    def of(cls, model: ModelSummary) -> Self:
        return cls(id=model.id, created=int(model.created_at), owned_by=model.owned_by, facts=model.facts)


class ArtifactObject(BaseModel):
    object: Literal["model.artifact"] = "model.artifact"
    name: str
    bytes: int
    sha256: str


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]


class ArtifactList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ArtifactObject]
