"""What a job is made from, as only the records know it: origin.json in its run folder, for the manifest."""

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
            made = _artifacts(session, job.parent_model)
            continues = ParentAdapter(model=job.parent_model, files=_hashes(made))
        return Origin(
            model=job.model_id,
            base=_base(session, job, base),
            continues=continues,
            training=_data(session, job, job.training_file, "train"),
            validation=_data(session, job, job.validation_file, "validation"),
        )


def _base(session: Session, job: Job, base: BaseModelRow) -> BaseEntry:
    if job.base_weights is not None:
        made = _artifacts(session, job.base_weights)
        return BaseEntry(name=job.base_weights, files=_weights(made))
    facts = base.facts
    return BaseEntry(
        name=base.name, source=facts.get("source"), revision=facts.get("revision"), files=_weights(base.artifacts)
    )


def _artifacts(session: Session, name: str) -> list[Artifact]:
    """Of a fine-tuned model or a checkpoint, of whatever project (worker.supervisor.lineage). It was fetched before, so
    that it is there or just gone."""
    made = models.named(session, name)
    return [] if made is None else trained_artifacts(made.artifacts)


def _hashes(artifacts: list[Artifact]) -> dict[str, str]:
    return {each["name"]: each["sha256"] for each in artifacts}


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
