from fastapi import APIRouter
from starlette.convertors import Convertor, register_url_convertor

from api.http.deps import Ctx, Who
from api.http.downloads import PARTIAL, Download, IfRangeHeader, RangeHeader, requested_bytes
from api.http.fair_route import FairRoute
from api.schemas.common import Deleted
from api.schemas.models import ArtifactList, ArtifactObject, ModelList, ModelObject
from api.services import models

router = APIRouter(prefix="/models", tags=["models"], route_class=FairRoute)


class ModelId(Convertor[str]):
    """A model id in a path. It may contain slashes, which some clients do not encode, but not `/artifacts`, because
    such a path belongs to another route."""

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
    model: str,
    name: str,
    context: Ctx,
    caller: Who,
    wanted: RangeHeader = None,
    condition: IfRangeHeader = None,
) -> Download:
    """Download a file, or only the bytes in a `Range` header, for example to resume a download. A header with several
    ranges is refused."""
    artifact = models.artifact(context, caller, model, name)
    part = requested_bytes(wanted, condition, artifact["bytes"])
    return Download(
        context.storage.stream(artifact["key"], part=part),
        filename=name.rpartition("/")[2],
        size=artifact["bytes"],
        part=part,
    )


@router.get("/{model:model_id}")
def retrieve_model(model: str, context: Ctx, caller: Who) -> ModelObject:
    return ModelObject.of(models.get(context, caller, model))


@router.delete("/{model:model_id}")
def delete_model(model: str, context: Ctx, caller: Who) -> Deleted:
    models.delete(context, caller, model)
    return Deleted(id=model, object="model")
