"""The part of a model's provenance that only the database knows. It is written to origin.json in the run folder and
becomes part of the published manifest."""

from sqlalchemy.orm import Session

from api.infra.artifacts import trained_artifacts
from api.records import arrays, files, models
from api.records.base_models import BaseModelRow
from api.records.jobs import Job
from api.spec.artifacts import Artifact
from api.spec.manifest import BaseEntry, DataEntry, Origin, ParentAdapter
from worker.supervisor.node import Node


def origin_of(node: Node, job: Job, base: BaseModelRow) -> Origin:
    with node.context.database.read() as session:
        continues = None
        if job.parent_model is not None and job.parent_model != job.base_weights:
            parent = _artifacts(session, job.parent_model)
            continues = ParentAdapter(model=job.parent_model, files=_hashes(parent))
        return Origin(
            model=job.model_id,
            base=_base(session, job, base),
            continues=continues,
            training=_data(session, job, job.training_file, "train"),
            validation=_data(session, job, job.validation_file, "validation"),
        )


def _base(session: Session, job: Job, base: BaseModelRow) -> BaseEntry:
    if job.base_weights is not None:
        weights = _weights(_artifacts(session, job.base_weights))
        return BaseEntry(name=job.base_weights, files=weights)
    facts = base.facts
    return BaseEntry(
        name=base.name, source=facts.get("source"), revision=facts.get("revision"), files=_weights(base.artifacts)
    )


def _artifacts(session: Session, name: str) -> list[Artifact]:
    """Return the artifacts of a fine-tuned model or a checkpoint of any project (see lineage.producing_job); none if
    the model was deleted after the job fetched it."""
    model = models.find_in_any_project(session, name)
    return [] if model is None else trained_artifacts(model.artifacts)


def _hashes(artifacts: list[Artifact]) -> dict[str, str]:
    return {artifact["name"]: artifact["sha256"] for artifact in artifacts}


def _weights(artifacts: list[Artifact]) -> dict[str, str]:
    return {
        name: sha256
        for name, sha256 in _hashes(artifacts).items()
        if name.endswith(".safetensors") or name == "config.json"
    }


def _data(session: Session, job: Job, file_id: str | None, part: str) -> DataEntry | None:
    if file_id is None:
        return None
    file = files.get_for_job(session, job.project_id, file_id)
    prepared = arrays.get(session, job.arrays[part]) if part in job.arrays else None
    report = {} if prepared is None else prepared.report
    return DataEntry(
        file=file_id,
        sha256=None if file is None else file.sha256,
        rows=report.get("rows"),
        format=report.get("format"),
    )
