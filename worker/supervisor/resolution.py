"""What of a resolved recipe depends on more than the rows: the labels, the model that it goes on from, the merging."""

from typing import TypedDict

from api.records.arrays import Arrays
from api.records.base_models import BaseModelRow
from api.records.jobs import Job
from api.spec.fields import AUTO
from api.spec.lifecycle import FailureReason
from api.spec.recipe import Recipe
from api.spec.resolve import Labels
from worker.supervisor.faults import AttemptFailed
from worker.supervisor.lineage import ParentDeleted, producing_job
from worker.supervisor.node import Node


class Settled(TypedDict):
    """Arguments of api.spec.resolve.resolve."""

    labels: Labels | None
    base_model: str
    merged: bool


def settle(
    node: Node, job: Job, recipe: Recipe, base: BaseModelRow, train: Arrays, continued: Labels | None
) -> Settled:
    """`continued`: the labels of the classifier that the job continues (known_labels). Raises AttemptFailed."""
    largest = node.context.settings.merged_max_parameters
    wanted = recipe.export.wants_merged(base.facts["parameters"], largest)
    labels = None
    if recipe.method.output == "labels":
        labels = continued or Labels(problem=train.report["problem"], names=tuple(train.report["label_names"] or ()))
        _require_effect(recipe, labels)
    return Settled(
        labels=labels, base_model=job.base_weights or job.base_model, merged=recipe.technique.merges and wanted
    )


def _require_effect(recipe: Recipe, labels: Labels) -> None:
    """What labels are left to the rows, so that only now an option may prove to be of no use."""
    if (idle := recipe.method.idle_option(labels.problem)) is not None:
        param = f"method.{recipe.method.type}.{idle[0]}"
        message = f"{param} would change nothing: {idle[1]}. Leave it out"
        raise AttemptFailed(FailureReason.INVALID_RECIPE, message, param=param)


def known_labels(node: Node, job: Job, recipe: Recipe) -> Labels | None:
    """Those of the classifier that the job continues, in the order of its head. Raises AttemptFailed, ParentDeleted."""
    if recipe.method.output != "labels" or job.parent_model is None:
        return None
    maker = producing_job(node, job.parent_model)
    if maker is None:
        raise ParentDeleted(job.parent_model, "which this job continues", "model")
    had = (maker.resolved or {}).get("labels")
    if had is None:  # it gave tokens
        return None
    known, asked = Labels.model_validate(had), recipe.method.problem
    if asked not in (AUTO, known.problem):
        message = f"{job.parent_model} was trained on labels of the kind {known.problem}, and method.classification."
        message += f"problem is {asked}: leave it out"
        raise AttemptFailed(FailureReason.INVALID_RECIPE, message, param="method.classification.problem")
    return known
