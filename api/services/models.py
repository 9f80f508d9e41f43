"""Models: the operator's base models and the project's own, and the files that each is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.orm import Session

from api.context import Caller, Context
from api.errors import Forbidden, InvalidRequest, NotFound
from api.infra.artifacts import GGUF, MERGED, trained_artifacts
from api.records import base_models, files, jobs, models, permissions
from api.spec import catalog
from api.spec.artifacts import Artifact


class NoSuchModel(NotFound):
    param = "model"
    code = "model_not_found"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"The model '{model_id[:256]}' does not exist")


class ModelInUse(InvalidRequest):
    param = "model"
    code = "model_in_use"


class NotMerged(InvalidRequest):
    """There are no merged weights; the message says why, and what to ask for."""

    param = "format"
    code = "no_merged_weights"


class NoGguf(InvalidRequest):
    param = "format"
    code = "no_gguf"


class NoSuchArtifact(NotFound):
    param = "name"

    def __init__(self, model_id: str, name: str) -> None:
        super().__init__(f"The model '{model_id}' has no artifact '{name[:128]}'")


Form = Literal["adapter", "merged", "gguf"]
"""Of a download: what was trained; the whole model that it makes of its base; or that as a GGUF file."""


@dataclass(frozen=True)
class ModelView:
    """A base model, a fine-tuned one or a checkpoint, as far as a caller sees them alike."""

    id: str
    created_at: float
    owned_by: str
    artifacts: Sequence[Artifact]
    facts: dict[str, Any]


def listed(context: Context, caller: Caller) -> list[ModelView]:
    with context.database.read() as session:
        bases = [_base_view(base) for base in base_models.listed(session)]
        own = models.listed(session, caller.project_id)
        makers = {job.id: job for job in jobs.with_ids(session, caller.project_id, [model.job_id for model in own])}
        return [_view(context, model.id, model, makers[model.job_id]) for model in own] + bases


def get(context: Context, caller: Caller, model_id: str) -> ModelView:
    with context.database.read() as session:
        if base := base_models.get(session, model_id):
            return _base_view(base)
        owner_id = permissions.owner_for(session, caller.project_id, model_id)
        made = models.get(session, owner_id, model_id) or models.get_checkpoint(session, owner_id, model_id)
        if made is not None:
            return _view(context, model_id, made, session.get_one(jobs.Job, made.job_id))
    raise NoSuchModel(model_id)


def artifacts(context: Context, caller: Caller, model_id: str, form: Form) -> list[Artifact]:
    """The files of a model as it was trained; or those of a whole model, which an adapter may have been merged into.

    Raises NotMerged, NoGguf.
    """
    every = get(context, caller, model_id).artifacts
    if form == "adapter":
        return trained_artifacts(every)
    if form == "gguf":
        return _gguf(model_id, every)
    with context.database.read() as session:
        if base_models.get(session, model_id) is not None:
            return list(every)
        made = models.named(session, model_id)
        assert made is not None, model_id
        maker = session.get_one(jobs.Job, made.job_id)
    name, technique = maker.recipe["technique"]["type"], catalog.technique_of(maker.recipe)
    if technique.whole_model:
        return trained_artifacts(every)
    if isinstance(made, models.Checkpoint):
        own = made.project_id == caller.project_id
        whose = "of their model" if own else "of their model, if its project permits that too"
        raise NotMerged(
            f"Checkpoints are kept as they are trained, not merged: download the adapter (format=adapter), or ask for "
            f"the merged weights {whose}"
        )
    if not technique.merges:
        legal = ", ".join(name for name, entry in catalog.TECHNIQUES.items() if entry.merges)
        raise NotMerged(
            f"What '{name}' trains cannot be added to the base's weights: download the adapter (format=adapter), or "
            f"train with {legal} or full"
        )
    merged = [each for each in every if each["name"].startswith(MERGED)]
    if not merged:
        raise NotMerged(
            f"{model_id} was published without merged weights: download the adapter (format=adapter), or create the "
            'job with "export": {"merged": true}'
        )
    return merged


def _gguf(model_id: str, every: Sequence[Artifact]) -> list[Artifact]:
    found = [each for each in every if each["name"].startswith(GGUF)]
    if not found:
        raise NoGguf(f'{model_id} was published without a GGUF file: create the job with "export": {{"gguf": "f16"}}')
    return found


def artifact(context: Context, caller: Caller, model_id: str, name: str) -> Artifact:
    for found in get(context, caller, model_id).artifacts:
        if found["name"] == name:
            return found
    raise NoSuchArtifact(model_id, name)


def delete(context: Context, caller: Caller, model_id: str) -> None:
    """Delete a fine-tuned model with its checkpoints. Base models are the operator's."""
    with context.database.write() as session:
        if base_models.get(session, model_id) is not None:
            raise Forbidden("A base model can only be removed by the operator (attune models remove)", param="model")
        if models.get_checkpoint(session, caller.project_id, model_id) is not None:
            raise InvalidRequest("A checkpoint is deleted with its model, not alone", param="model")
        model = models.get_to_remove(session, caller.project_id, model_id)
        if model is None:
            raise NoSuchModel(model_id)
        _refuse_needed(session, caller, model_id)
        checkpoints = models.checkpoints_of(session, model.job_id)
        for archive in files.archives_of(session, model_id):
            files.remove(session, archive)
        models.remove_checkpoints(session, checkpoints)
        models.remove(session, model)
        permissions.forget_of(session, [model_id, *(checkpoint.model_id for checkpoint in checkpoints)])
    gone = [*model.artifacts, *(artifact for checkpoint in checkpoints for artifact in checkpoint.artifacts)]
    context.storage.delete([artifact["key"] for artifact in gone])


def _refuse_needed(session: Session, caller: Caller, model_id: str) -> None:
    """While a job begins from it, or an adapter lies on its weights."""
    if users := models.referenced_by(session, model_id, caller.project_id):
        raise ModelInUse(f"{model_id} is needed by {', '.join(users[:5])}: cancel the job or wait for its end")
    if lying := models.on_weights(session, caller.project_id, model_id):
        raise ModelInUse(f"{model_id} is the base of {', '.join(lying[:5])}: delete them first")


def _view(context: Context, model_id: str, made: models.Model | models.Checkpoint, maker: jobs.Job) -> ModelView:
    method = maker.recipe["method"]["type"]
    facts = {
        "base_model": maker.base_model,
        "fine_tuning_job_id": maker.id,
        "technique": maker.recipe["technique"]["type"],
        "method": method,
        "output": catalog.METHODS[method].output,
    }
    return ModelView(model_id, made.created_at, context.settings.organization, made.artifacts, facts)


def _base_view(base: base_models.BaseModelRow) -> ModelView:
    return ModelView(base.name, base.created_at, "operator", base.artifacts, base.facts)
