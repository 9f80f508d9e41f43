"""The model that a job begins from: a base model, or a model or checkpoint that another job published."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeVar

from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from api.errors import InvalidRequest
from api.records import base_models, jobs, models, permissions
from api.records.base_models import BaseModelRow
from api.records.jobs import Job
from api.spec.fields import AUTO
from api.spec.methods import Method
from api.spec.recipe import Recipe
from api.spec.resolve import Labels
from api.spec.techniques import Technique

METHOD, TECHNIQUE = TypeAdapter[Method](Method), TypeAdapter[Technique](Technique)

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)

Pending = Mapping[str, Job]
"""{id of a model that an earlier stage of a pipeline will publish: the job of that stage}."""

NO_PENDING: Pending = {}

MAX_NAMED_BASES = 8
"""Largest number of base models that an error names."""


class NoSuchOrigin(InvalidRequest):
    param = "model"
    code = "model_not_found"

    def __init__(self, session: Session, name: str) -> None:
        bases = base_models.names(session)
        close = get_close_matches(name, bases, MAX_NAMED_BASES)
        named = [*close, *(base for base in bases if base not in close)][:MAX_NAMED_BASES]
        have = "no base model: the operator adds one with `attune models add`"
        if named:
            more = f" and {len(bases) - len(named):,} more" if len(bases) > len(named) else ""
            have = f"these base models: {', '.join(named)}{more}. GET /v1/models also lists fine-tuned ones"
        super().__init__(f"The model `{name[:128]}` does not exist here. This server has {have}")


class CannotContinue(InvalidRequest):
    code = "cannot_continue"


@dataclass(frozen=True)
class Origin:
    name: str
    """The name in the recipe."""
    base: BaseModelRow
    """The operator's base model at the start of the lineage."""
    producing_job: Job | None = None
    """The job that published the named model; None for a base model."""

    @property
    def method(self) -> Method | None:
        return None if self.producing_job is None else METHOD.validate_python(self.producing_job.recipe["method"])

    @property
    def technique(self) -> Technique | None:
        """The technique of the adapter that the job continues; None if it begins from a whole model."""
        if self.producing_job is None:
            return None
        technique = TECHNIQUE.validate_python(self.producing_job.recipe["technique"])
        return None if technique.whole_model else technique.as_published()

    @property
    def labels(self) -> Labels | None:
        """The labels of the classifier that the job continues, once the rows of that classifier are prepared; else
        None."""
        labels = None if self.producing_job is None else (self.producing_job.resolved or {}).get("labels")
        return None if labels is None else Labels.model_validate(labels)

    @property
    def base_weights(self) -> str | None:
        """The fully fine-tuned model whose weights the job trains on in place of those of `base`, if there is one."""
        if self.producing_job is None:
            return None
        return self.name if self.technique is None else self.producing_job.base_weights


def find(session: Session, project_id: str, name: str, pending: Pending = NO_PENDING) -> Origin:
    """Return the origin of a job on the model of this name. Raise InvalidRequest if the project cannot use the
    model."""
    if (base := base_models.get(session, name)) is not None:
        return Origin(name, base)
    job = producing_job(session, project_id, name, pending)
    if job is None:
        raise NoSuchOrigin(session, name)
    base = base_models.get(session, job.base_model)
    if base is None:  # removed, though checkpoints of a job that failed are left
        raise NoSuchOrigin(session, job.base_model)
    origin = Origin(name, base, job)
    _require_weights(session, project_id, origin, pending)
    return origin


def hold(session: Session, project_id: str, origin: Origin) -> None:
    """Prevent the removal of an origin, which an earlier session found, until this transaction ends.

    Raise InvalidRequest if the origin was removed in the meantime, or if the project may no longer use it.
    """
    if base_models.get_to_use(session, origin.base.name) is None:
        raise NoSuchOrigin(session, origin.base.name)
    if origin.producing_job is not None and producing_job(session, project_id, origin.name, NO_PENDING) is None:
        raise NoSuchOrigin(session, origin.name)
    _require_weights(session, project_id, origin, NO_PENDING)


def _require_weights(session: Session, project_id: str, origin: Origin, pending: Pending) -> None:
    """Raise CannotContinue unless the project may use the whole model that the origin's adapter needs.

    A permission to use another project's adapter does not extend to the whole model: merging the adapter would publish
    the weights of that model.
    """
    weights = origin.base_weights
    if weights is not None and producing_job(session, project_id, weights, pending) is None:
        raise CannotContinue(
            f"{origin.name[:128]} is an adapter for the weights of {weights}, which this project cannot use: the "
            "weights were deleted, or their owner has not permitted their use",
            param="model",
        )


def producing_job(session: Session, project_id: str, name: str, pending: Pending) -> Job | None:
    """Return the job that published, or will publish, the model or checkpoint; None if the project has no such model
    and no permission to use one of another project. The model cannot be removed until the transaction ends."""
    if name in pending:
        return pending[name]
    owner_id = permissions.owner_for(session, project_id, name)
    model = models.get_to_use(session, owner_id, name) or models.get_checkpoint_to_use(session, owner_id, name)
    return None if model is None else jobs.get(session, owner_id, model.job_id)


def inherit_technique(recipe: AnyRecipe, origin: Origin) -> AnyRecipe:
    """Return the recipe. If it continues an adapter, the returned recipe has the adapter's technique.

    Raise CannotContinue if the recipe contradicts the origin's technique or method.
    """
    if origin.method is None:
        return recipe
    _require_same_output(recipe, origin, origin.method)
    if origin.technique is None:
        return recipe
    return recipe.model_copy(update={"technique": _continued_technique(recipe, origin.name, origin.technique)})


def _require_same_output(recipe: Recipe, origin: Origin, trained_by: Method) -> None:
    """Raise CannotContinue if the recipe would turn a classifier or a reward model into another kind of model."""
    if trained_by.output not in ("tokens", recipe.method.output):
        raise CannotContinue(
            f"{origin.name} was trained by '{trained_by.type}' and generates no tokens: only '{trained_by.type}' can "
            f"continue its training, not '{recipe.method.type}'",
            param="method.type",
        )
    problem = recipe.method.problem
    if origin.labels is not None and problem not in (AUTO, origin.labels.problem):
        raise CannotContinue(
            f"{origin.name} was trained with problem '{origin.labels.problem}', which cannot become '{problem}': leave "
            "method.classification.problem out",
            param="method.classification.problem",
        )


def _continued_technique(recipe: Recipe, name: str, parent: Technique) -> Technique:
    """Return the parent's technique, with the recipe's values of the fields that may change.

    Raise CannotContinue if the recipe changes another field.
    """
    if not recipe.technique_given:
        return parent
    requested = recipe.technique
    if requested.type != parent.type:
        raise CannotContinue(
            f"{name} is a '{parent.type}' adapter and stays one in further training: leave technique out, or give "
            f"'{parent.type}' instead of '{requested.type}'",
            param="technique.type",
        )
    fields = {field: getattr(requested, field) for field in sorted(requested.model_fields_set - {"type"})}
    for field, value in fields.items():
        if field not in parent.mutable_fields and value != getattr(parent, field):
            raise CannotContinue(
                f"{name} was trained with {field} {getattr(parent, field)}, which cannot become {value}: leave "
                f"{field} out",
                param=f"technique.{field}",
            )
    if requested.changes_base:
        raise CannotContinue(
            f"{name} is already trained, so its adapter is not initialized again: leave technique.init out",
            param="technique.init",
        )
    return parent.model_copy(update=fields)
