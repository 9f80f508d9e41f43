from typing import Annotated

from fastapi import APIRouter, Header
from starlette.convertors import Convertor, register_url_convertor

from api.http.deps import Ctx, Who
from api.http.downloads import PARTIAL, Download, first_byte
from api.http.fair_route import FairRoute
from api.schemas.common import Deleted
from api.schemas.models import ArtifactList, ArtifactObject, ModelList, ModelObject
from api.services import models

router = APIRouter(prefix="/models", tags=["models"], route_class=FairRoute)


class ModelId(Convertor[str]):
    """A model id in a path. Some clients do not encode the slashes of an id; `…/artifacts` is another route."""

    regex = r"(?:(?!/artifacts(?:/|$)).)+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("model_id", ModelId())


@router.get("")
def list_models(context: Ctx, caller: Who) -> ModelList:
    """List the project's fine-tuned models, newest first, then the base models."""
    return ModelList(data=[ModelObject.of(model) for model in models.listed(context, caller)])


@router.get("/{model:path}/artifacts")
def list_artifacts(model: str, context: Ctx, caller: Who, format: models.ArtifactFormat = "adapter") -> ArtifactList:
    """List the files of a base model, a fine-tuned model or a checkpoint, in the form that `format` names."""
    found = models.artifacts(context, caller, model, format)
    return ArtifactList(
        data=[
            ArtifactObject(name=artifact["name"], bytes=artifact["bytes"], sha256=artifact["sha256"])
            for artifact in found
        ]
    )


@router.get("/{model:path}/artifacts/{name:path}", response_class=Download, responses=PARTIAL)
def download_artifact(
    model: str, name: str, context: Ctx, caller: Who, range: Annotated[str | None, Header(max_length=64)] = None
) -> Download:
    """Download a file. With `Range: bytes=N-`, download the rest from byte N (206), to resume a download."""
    artifact = models.artifact(context, caller, model, name)
    start = first_byte(range, artifact["bytes"])
    return Download(
        context.storage.stream(artifact["key"], start=start),
        filename=name.rpartition("/")[2],
        size=artifact["bytes"],
        start=start,
    )


@router.get("/{model:model_id}")
def retrieve_model(model: str, context: Ctx, caller: Who) -> ModelObject:
    return ModelObject.of(models.get(context, caller, model))


@router.delete("/{model:model_id}")
def delete_model(model: str, context: Ctx, caller: Who) -> Deleted:
    models.delete(context, caller, model)
    return Deleted(id=model, object="model")
