"""What a job begins from: a base model, or the model or a checkpoint that another job made."""

from collections.abc import Mapping
from dataclasses import dataclass

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
from api.spec.techniques.lora import CHANGES_THE_BASE

METHOD, TECHNIQUE = TypeAdapter[Method](Method), TypeAdapter[Technique](Technique)

Pending = Mapping[str, Job]
"""Models that are still to be made, by the id that they will have: those of earlier stages."""


class CannotContinue(InvalidRequest):
    code = "cannot_continue"


@dataclass(frozen=True)
class Origin:
    name: str
    base: BaseModelRow
    """The operator's base model that it all began from."""
    producing_job: Job | None = None
    """The job that made what is named."""

    @property
    def method(self) -> Method | None:
        return None if self.producing_job is None else METHOD.validate_python(self.producing_job.recipe["method"])

    @property
    def technique(self) -> Technique | None:
        """That of the files of the maker's adapter; None for whole models."""
        if self.producing_job is None or self.producing_job.recipe["technique"]["type"] == "full":
            return None
        return TECHNIQUE.validate_python(self.producing_job.recipe["technique"]).as_published()

    @property
    def labels(self) -> Labels | None:
        """What the maker's classifier tells, once its rows are prepared."""
        labels = None if self.producing_job is None else (self.producing_job.resolved or {}).get("labels")
        return None if labels is None else Labels.model_validate(labels)

    @property
    def base_weights(self) -> str | None:
        """The fully fine-tuned model whose weights are the base, in place of `base`'s own."""
        if self.producing_job is None:
            return None
        return self.name if self.technique is None else self.producing_job.base_weights


def find(session: Session, project_id: str, name: str, pending: Pending) -> Origin:
    """Raises InvalidRequest if there is no such model."""
    if (base := base_models.get(session, name)) is not None:
        return Origin(name, base)
    maker = producing_job(session, project_id, name, pending)
    if maker is None:
        raise InvalidRequest(
            f"The model `{name[:128]}` does not exist here: GET /v1/models lists those that can be fine-tuned",
            param="model",
            code="model_not_found",
        )
    base = base_models.get(session, maker.base_model)
    assert base is not None, f"{maker.base_model} cannot be removed while {name} needs it"
    origin = Origin(name, base, maker)
    _check_weights(session, project_id, origin, pending)
    return origin


def _check_weights(session: Session, project_id: str, origin: Origin, pending: Pending) -> None:
    """Whoever may use an adapter of another project may not for that use the whole model that it lies on, whose weights
    would be published again with what is merged."""
    weights = origin.base_weights
    if weights is not None and producing_job(session, project_id, weights, pending) is None:
        raise CannotContinue(
            f"{origin.name[:128]} lies on the weights of {weights}, which this project may not use: they were deleted, "
            "or their owner has to permit them too",
            param="model",
        )


def producing_job(session: Session, project_id: str, name: str, pending: Pending) -> Job | None:
    """The job that made, or will make, the model or checkpoint: of this project, or of one that permits it."""
    if name in pending:
        return pending[name]
    owner_id = permissions.owner_for(session, project_id, name)
    made = models.get_to_use(session, owner_id, name) or models.get_checkpoint(session, owner_id, name)
    return None if made is None else jobs.get(session, owner_id, made.job_id)


def continued(recipe: Recipe, origin: Origin) -> Recipe:
    """The recipe with the technique that it takes over from its parent. Raises CannotContinue where it cannot."""
    if origin.producing_job is None or origin.method is None:
        return recipe
    output, wanted = origin.method.output, recipe.method.output
    if output not in ("tokens", wanted):
        raise CannotContinue(
            f"{origin.name} was trained by '{origin.method.type}' and gives no tokens: it can only be trained on by "
            f"'{origin.method.type}', not by '{recipe.method.type}'",
            param="method.type",
        )
    asked = recipe.method.chosen().get("problem", AUTO)
    if origin.labels is not None and asked not in (AUTO, origin.labels.problem):
        raise CannotContinue(
            f"{origin.name} was trained on labels of the kind {origin.labels.problem}, not {asked}: leave it out",
            param="method.classification.problem",
        )
    if origin.technique is None:
        return recipe
    return recipe.model_copy(update={"technique": _taken_over(recipe, origin.name, origin.technique)})


def _taken_over(recipe: Recipe, name: str, parent: Technique) -> Technique:
    """The parent's technique, with what the recipe may change of it."""
    if not recipe.technique_given:
        return parent
    given = recipe.technique
    if given.type != parent.type:
        raise CannotContinue(
            f"{name} is a '{parent.type}' adapter, and is trained on as one: leave technique out, or give "
            f"'{parent.type}' instead of '{given.type}'",
            param="technique.type",
        )
    asked = {field: getattr(given, field) for field in sorted(given.model_fields_set - {"type"})}
    for field, value in asked.items():
        if field not in parent.mutable_fields and value != getattr(parent, field):
            raise CannotContinue(
                f"{name} was trained with {field} {getattr(parent, field)}, which cannot become {value}: leave it out",
                param=f"technique.{field}",
            )
    if asked.get("init") in CHANGES_THE_BASE:
        raise CannotContinue(f"{name} has begun already: leave technique.init out", param="technique.init")
    return parent.model_copy(update=asked)
