"""Models: the operator's base models, the project's fine-tuned models and checkpoints, and their files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from sqlalchemy.orm import Session

from api.context import Caller, Context
from api.errors import Forbidden, InvalidRequest, NotFound
from api.infra.artifacts import GGUF, MERGED, trained_artifacts
from api.infra.unused_objects import delete_unused
from api.records import base_models, files, jobs, models, permissions
from api.spec import catalog
from api.spec.artifacts import Artifact


class NoSuchModel(NotFound):
    param = "model"
    code = "model_not_found"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"The model '{model_id[:256]}' does not exist: GET /v1/models lists those that do")


class ModelInUse(InvalidRequest):
    param = "model"
    code = "model_in_use"


class NotMerged(InvalidRequest):
    """The model has no merged weights; the message gives the reason and an alternative."""

    param = "format"
    code = "no_merged_weights"


class NoGguf(InvalidRequest):
    param = "format"
    code = "no_gguf"


class NoSuchArtifact(NotFound):
    param = "name"

    def __init__(self, model_id: str, name: str) -> None:
        super().__init__(f"The model '{model_id}' has no artifact '{name[:128]}'")


ArtifactFormat = Literal["adapter", "merged", "gguf"]
"""The form of a download: `adapter`, the trained weights; `merged`, the whole model; `gguf`, the whole model as a GGUF
file."""


@dataclass(frozen=True)
class ModelSummary:
    """A base model, a fine-tuned model or a checkpoint, with the fields that all of them have."""

    id: str
    created_at: float
    owned_by: str
    facts: Mapping[str, object]


@dataclass(frozen=True)
class ModelView(ModelSummary):
    artifacts: Sequence[Artifact]


def listed(context: Context, caller: Caller) -> list[ModelSummary]:
    owner = context.settings.organization
    with context.database.read() as session:
        own = [
            ModelSummary(model_id, created_at, owner, _facts(*facts))
            for model_id, created_at, *facts in models.listed(session, caller.project_id)
        ]
        return [*own, *(_base_view(base) for base in base_models.listed(session))]


def get(context: Context, caller: Caller, model_id: str) -> ModelView:
    with context.database.read() as session:
        if base := base_models.get(session, model_id):
            return _base_view(base)
        row = find_trained(session, caller, model_id)
        if row is not None:
            return _view(context, model_id, row, session.get_one(jobs.Job, row.job_id))
    raise NoSuchModel(model_id)


def find_trained(session: Session, caller: Caller, model_id: str) -> models.Model | models.Checkpoint | None:
    """Return the fine-tuned model or checkpoint; None if the project has none of this name, and no permission to use
    one of another project."""
    owner_id = permissions.owner_for(session, caller.project_id, model_id)
    return models.get(session, owner_id, model_id) or models.get_checkpoint(session, owner_id, model_id)


def artifacts(context: Context, caller: Caller, model_id: str, form: ArtifactFormat) -> list[Artifact]:
    """Return the artifacts of a model in this form. Raise NoSuchModel, and NotMerged or NoGguf if the model has no
    artifacts in this form."""
    all_artifacts = get(context, caller, model_id).artifacts
    if form == "adapter":
        return trained_artifacts(all_artifacts)
    if form == "gguf":
        return _gguf(model_id, all_artifacts)
    with context.database.read() as session:
        if base_models.get(session, model_id) is not None:
            return list(all_artifacts)
        row = models.find_in_any_project(session, model_id)
        assert row is not None, model_id
        job = session.get_one(jobs.Job, row.job_id)
    name = job.recipe["technique"]["type"]
    technique = catalog.TECHNIQUES[name]
    if technique.whole_model:
        return trained_artifacts(all_artifacts)
    if isinstance(row, models.Checkpoint):
        permitted = "" if row.project_id == caller.project_id else ", if its project permits that"
        raise NotMerged(
            "Checkpoints have no merged weights: download the adapter (format=adapter), or the merged weights of the "
            f"job's model{permitted}"
        )
    if not technique.merges:
        legal = ", ".join(name for name, entry in catalog.TECHNIQUES.items() if entry.merges)
        raise NotMerged(
            f"The weights that '{name}' trains cannot be merged into the base: download the adapter "
            f"(format=adapter), or train with {legal} or full"
        )
    merged = [entry for entry in all_artifacts if entry["name"].startswith(MERGED)]
    if not merged:
        raise NotMerged(
            f"{model_id} was published without merged weights: download the adapter (format=adapter), or create the "
            'job with "export": {"merged": true}'
        )
    return merged


def _gguf(model_id: str, all_artifacts: Sequence[Artifact]) -> list[Artifact]:
    gguf = [entry for entry in all_artifacts if entry["name"].startswith(GGUF)]
    if not gguf:
        raise NoGguf(f'{model_id} was published without a GGUF file: create the job with "export": {{"gguf": "f16"}}')
    return gguf


def artifact(context: Context, caller: Caller, model_id: str, name: str) -> Artifact:
    for entry in get(context, caller, model_id).artifacts:
        if entry["name"] == name:
            return entry
    raise NoSuchArtifact(model_id, name)


def delete(context: Context, caller: Caller, model_id: str) -> None:
    """Delete a fine-tuned model with its checkpoints. Raise Forbidden for a base model, InvalidRequest for a
    checkpoint, NoSuchModel, and ModelInUse while a job or an adapter needs the model."""
    with context.database.write() as session:
        if base_models.get(session, model_id) is not None:
            raise Forbidden("A base model can only be removed by the operator (attune models remove)", param="model")
        if models.get_checkpoint(session, caller.project_id, model_id) is not None:
            raise InvalidRequest("A checkpoint cannot be deleted alone: delete its model", param="model")
        model = models.get_to_remove(session, caller.project_id, model_id)
        if model is None:
            raise NoSuchModel(model_id)
        checkpoints = models.checkpoints_to_remove(session, model.job_id)
        _require_unused(session, caller, model_id)
        for archive in files.archives_of(session, model_id):
            files.remove(session, archive)
        models.remove_checkpoints(session, checkpoints)
        models.remove(session, model)
        permissions.delete_for_models(session, [model_id, *(checkpoint.model_id for checkpoint in checkpoints)])
    deleted = [*model.artifacts, *(artifact for checkpoint in checkpoints for artifact in checkpoint.artifacts)]
    delete_unused(partial(context.storage.delete, [artifact["key"] for artifact in deleted]))


def _require_unused(session: Session, caller: Caller, model_id: str) -> None:
    """Raise ModelInUse while a job begins from the model, or an adapter needs its weights."""
    if users := models.referenced_by(session, model_id, caller.project_id):
        raise ModelInUse(f"{model_id} is needed by {', '.join(users[:5])}: cancel the job or wait for its end")
    if adapters := models.adapters_on(session, caller.project_id, model_id):
        raise ModelInUse(f"{model_id} is the base of {', '.join(adapters[:5])}: delete these adapters first")


def _view(context: Context, model_id: str, row: models.Model | models.Checkpoint, job: jobs.Job) -> ModelView:
    facts = _facts(job.base_model, job.id, job.recipe["technique"]["type"], job.recipe["method"]["type"])
    return ModelView(model_id, row.created_at, context.settings.organization, facts, row.artifacts)


def _facts(base_model: str, job_id: str, technique: str, method: str) -> dict[str, object]:
    return {
        "base_model": base_model,
        "fine_tuning_job_id": job_id,
        "technique": technique,
        "method": method,
        "output": catalog.METHODS[method].output,
    }


def _base_view(base: base_models.BaseModelRow) -> ModelView:
    return ModelView(base.name, base.created_at, "operator", base.facts, base.artifacts)
