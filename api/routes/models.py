from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from api.deps import Ctx, Who
from api.downloads import download
from api.schemas.common import Deleted
from api.schemas.models import ArtifactList, ArtifactObject, ModelList, ModelObject
from api.services import models

router = APIRouter(prefix="/models", tags=["models"])

# Ids may hold slashes, which some clients send as they are: hence `:path`, and the longer paths first.


@router.get("")
def list_models(context: Ctx, caller: Who) -> ModelList:
    """The project's fine-tuned models, newest first, then the base models."""
    return ModelList(data=[ModelObject.of(model) for model in models.listed(context, caller)])


@router.get("/{model:path}/artifacts")
def list_artifacts(model: str, context: Ctx, caller: Who, format: models.Form = "adapter") -> ArtifactList:
    """The files of a base model, a fine-tuned one or a checkpoint; with `format` those of another form."""
    found = models.artifacts(context, caller, model, format)
    return ArtifactList(
        data=[
            ArtifactObject(name=artifact["name"], bytes=artifact["bytes"], sha256=artifact["sha256"])
            for artifact in found
        ]
    )


@router.get("/{model:path}/artifacts/{name:path}", response_class=StreamingResponse)
def download_artifact(model: str, name: str, context: Ctx, caller: Who) -> StreamingResponse:
    artifact = models.artifact(context, caller, model, name)
    return download(context.storage.read(artifact["key"]), filename=name.rpartition("/")[2], size=artifact["bytes"])


@router.get("/{model:path}")
def retrieve_model(model: str, context: Ctx, caller: Who) -> ModelObject:
    return ModelObject.of(models.get(context, caller, model))


@router.delete("/{model:path}")
def delete_model(model: str, context: Ctx, caller: Who) -> Deleted:
    models.delete(context, caller, model)
    return Deleted(id=model, object="model")
