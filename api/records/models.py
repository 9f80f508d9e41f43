"""Fine-tuned models and their checkpoints."""

from collections.abc import Sequence

from pydantic import TypeAdapter
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    ForeignKey,
    Integer,
    Row,
    String,
    UniqueConstraint,
    and_,
    cast,
    delete,
    or_,
    select,
    true,
)
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import InstrumentedAttribute, Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now
from api.records.jobs import Job
from api.records.pages import Listing, Page, paginate
from api.spec.artifacts import Artifact
from api.spec.fields import JsonObject
from api.spec.ids import CHECKPOINT_INFIX, is_model_or_checkpoint
from api.spec.lifecycle import UNFINISHED
from api.spec.methods import Method

_METHOD = TypeAdapter[Method](Method)


def _artifact_bytes(context: DefaultExecutionContext) -> int:
    """Return the total size of the artifacts of the row that is being inserted, the default of its column `bytes`."""
    artifacts: list[Artifact] = context.get_current_parameters()["artifacts"]  # type: ignore[no-untyped-call]
    return sum(artifact["bytes"] for artifact in artifacts)


class Model(Base):
    """A model that a job published. Each job publishes at most one."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(String(256), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    base_model: Mapped[str] = mapped_column(String(128), index=True)
    artifacts: Mapped[list[Artifact]]
    bytes: Mapped[int] = mapped_column(BigInteger, default=_artifact_bytes, server_default="0")
    created_at: Mapped[float] = mapped_column(UnixTime)


class Checkpoint(Base):
    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "step"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    model_id: Mapped[str] = mapped_column(String(256), unique=True)
    """Id of the checkpoint for downloads and further training: the id of its job's model, and `:ckpt-step-N`."""
    step: Mapped[int] = mapped_column(Integer)
    metrics: Mapped[JsonObject]
    artifacts: Mapped[list[Artifact]]
    bytes: Mapped[int] = mapped_column(BigInteger, default=_artifact_bytes, server_default="0")
    created_at: Mapped[float] = mapped_column(UnixTime)


CHECKPOINTS = Listing(Checkpoint.job_id, Checkpoint.id, (Checkpoint.step,))


def get(session: Session, project_id: str, model_id: str) -> Model | None:
    return session.scalars(select(Model).where(Model.id == model_id, Model.project_id == project_id)).one_or_none()


def get_to_use(session: Session, project_id: str, model_id: str) -> Model | None:
    """Return the model, locked against removal until this transaction ends."""
    query = select(Model).where(Model.id == model_id, Model.project_id == project_id)
    return session.scalars(query.with_for_update(read=True)).one_or_none()


def get_to_remove(session: Session, project_id: str, model_id: str) -> Model | None:
    """Return the model, locked against new uses until this transaction ends."""
    query = select(Model).where(Model.id == model_id, Model.project_id == project_id)
    return session.scalars(query.with_for_update()).one_or_none()


def get_checkpoint(session: Session, project_id: str, model_id: str) -> Checkpoint | None:
    return session.scalars(
        select(Checkpoint).where(Checkpoint.model_id == model_id, Checkpoint.project_id == project_id)
    ).one_or_none()


def get_checkpoint_to_use(session: Session, project_id: str, model_id: str) -> Checkpoint | None:
    """Return the checkpoint, locked against removal until this transaction ends."""
    query = select(Checkpoint).where(Checkpoint.model_id == model_id, Checkpoint.project_id == project_id)
    return session.scalars(query.with_for_update(read=True)).one_or_none()


def find_in_any_project(session: Session, model_id: str) -> Model | Checkpoint | None:
    """Return a model or checkpoint of any project, for callers that have checked the permission."""
    return (
        session.get(Model, model_id)
        or session.scalars(select(Checkpoint).where(Checkpoint.model_id == model_id)).one_or_none()
    )


def listed(session: Session, project_id: str) -> Sequence[Row[str, float, str, str, str, str]]:
    """Return the id, the time of creation, the base model, the job, the technique and the method of each of the
    project's models, newest first. A project may have thousands, so their artifacts and recipes are not read."""
    technique, method = (Job.recipe[(field, "type")].as_string() for field in ("technique", "method"))
    query = select(Model.id, Model.created_at, Job.base_model, Job.id, technique, method).join(Job)
    return session.execute(
        query.where(Model.project_id == project_id).order_by(Model.created_at.desc(), Model.id)
    ).all()


def of_base(session: Session, base_model: str) -> Sequence[Model]:
    return session.scalars(select(Model).where(Model.base_model == base_model)).all()


def referenced_by(session: Session, model_id: str, project_id: str | None = None) -> Sequence[str]:
    """Return the ids of unfinished jobs that start from this model or a checkpoint of it, or whose method uses one of
    them, such as a reward model.

    Without `project_id`, jobs of all projects count.
    """
    starts_here = or_(_is_model_or_checkpoint(Job.parent_model, model_id), _needs_weights(model_id))
    active = and_(Job.status.in_(UNFINISHED), true() if project_id is None else Job.project_id == project_id)
    # Only recipes that contain the id anywhere are parsed: parsing all of them takes a second for 3,000 jobs.
    mentions = cast(Job.recipe, String).contains(model_id, autoescape=True)
    judged = [
        job_id
        for job_id, recipe in session.execute(select(Job.id, Job.recipe).where(active, mentions))
        if any(
            is_model_or_checkpoint(use.model, model_id)
            for use in _METHOD.validate_python(recipe["method"]).named_models
        )
    ]
    continuing = session.scalars(select(Job.id).where(starts_here, active)).all()
    return list(dict.fromkeys([*continuing, *judged]))


def adapters_on(session: Session, project_id: str, model_id: str) -> Sequence[str]:
    """Return the ids of adapters that need the weights of this fully fine-tuned model or of a checkpoint of it."""
    adapters = select(Model.id).join(Job, Job.id == Model.job_id).where(Model.project_id == project_id)
    return session.scalars(adapters.where(_needs_weights(model_id))).all()


def _needs_weights(model_id: str) -> ColumnElement[bool]:
    return _is_model_or_checkpoint(Job.base_weights, model_id)


def _is_model_or_checkpoint(column: InstrumentedAttribute[str | None], model_id: str) -> ColumnElement[bool]:
    """Return the condition that the column holds the id of the model or of one of its checkpoints."""
    return or_(column == model_id, column.startswith(model_id + CHECKPOINT_INFIX, autoescape=True))


def remove(session: Session, model: Model) -> None:
    session.execute(delete(Model).where(Model.id == model.id))


def checkpoints_of(session: Session, job_id: str) -> Sequence[Checkpoint]:
    return session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step)).all()


def old_checkpoints(session: Session, keep_s: float) -> Sequence[str]:
    """Return the ids of the checkpoints whose jobs ended more than `keep_s` seconds ago."""
    ended = select(Checkpoint.id).join(Job, Job.id == Checkpoint.job_id).where(Job.finished_at < db_now() - keep_s)
    return session.scalars(ended.order_by(Job.finished_at, Checkpoint.id)).all()


def checkpoint_to_remove(session: Session, checkpoint_id: str) -> Checkpoint | None:
    """Return the checkpoint, locked against new uses until this transaction ends."""
    return session.scalars(select(Checkpoint).where(Checkpoint.id == checkpoint_id).with_for_update()).one_or_none()


def checkpoints_to_remove(session: Session, job_id: str) -> Sequence[Checkpoint]:
    """Return the checkpoints of a job, locked against new uses until this transaction ends."""
    query = select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step)
    return session.scalars(query.with_for_update()).all()


def checkpoint_page(session: Session, job_id: str, *, after: str | None, limit: int) -> Page[Checkpoint]:
    return paginate(
        session,
        CHECKPOINTS,
        job_id,
        select(Checkpoint).where(Checkpoint.job_id == job_id),
        after=after,
        limit=limit,
    )


def remove_checkpoints(session: Session, checkpoints: Sequence[Checkpoint]) -> None:
    CHECKPOINTS.delete(session, Checkpoint.id.in_([checkpoint.id for checkpoint in checkpoints]))
