"""Inputs for resolving a recipe that do not come from the number and lengths of its rows: the labels, the weights to
train, and whether a merged model is published."""

from typing import TypedDict

from api.records.arrays import Arrays
from api.spec.fields import AUTO
from api.spec.lifecycle import FailureReason
from api.spec.recipe import Recipe
from api.spec.resolve import Labels
from worker.supervisor.attempt import AttemptContext
from worker.supervisor.faults import AttemptFailed
from worker.supervisor.lineage import ParentDeleted, producing_job


class ResolutionInputs(TypedDict):
    """Arguments of `api.spec.resolve.resolve` that do not come from the number and lengths of the rows."""

    labels: Labels | None
    base_model: str
    merged: bool


def resolution_inputs(attempt: AttemptContext, train: Arrays, parent: Labels | None) -> ResolutionInputs:
    """Return the labels, the name of the weights to train, and whether to publish a merged model.

    `parent`: the labels of the classifier that the job continues (parent_labels). Raises AttemptFailed if an option of
    the method has no effect on the labels.
    """
    recipe, job = attempt.recipe, attempt.job
    largest = attempt.node.context.settings.merged_max_parameters
    merged = recipe.publishes_merged(attempt.base.facts["parameters"], largest)
    labels = None
    if recipe.method.output == "labels":
        labels = parent or Labels(problem=train.report["problem"], names=tuple(train.report["label_names"] or ()))
        _require_effect(recipe, labels)
    return ResolutionInputs(labels=labels, base_model=job.base_weights or job.base_model, merged=merged)


def _require_effect(recipe: Recipe, labels: Labels) -> None:
    """Raise AttemptFailed if an option of the method has no effect on this kind of labels. The kind is known only once
    the rows are read."""
    if (idle := recipe.method.idle_option(labels.problem)) is not None:
        param = f"method.{recipe.method.type}.{idle[0]}"
        message = f"{param} would change nothing: {idle[1]}. Leave it out"
        raise AttemptFailed(FailureReason.INVALID_RECIPE, message, param=param)


def parent_labels(attempt: AttemptContext) -> Labels | None:
    """Return the labels of the classifier that the job continues, in the order of its outputs; None if it continues
    none.

    Raises AttemptFailed if the recipe requests another kind of labels, ParentDeleted if the classifier was deleted.
    """
    recipe, parent = attempt.recipe, attempt.job.parent_model
    if recipe.method.output != "labels" or parent is None:
        return None
    producer = producing_job(attempt.node, parent)
    if producer is None:
        raise ParentDeleted(parent, "which this job continues", "model")
    stored = (producer.resolved or {}).get("labels")
    if stored is None:  # the parent is a language model
        return None
    labels, requested = Labels.model_validate(stored), recipe.method.problem
    if requested not in (AUTO, labels.problem):
        message = (
            f"{parent} was trained on labels of the kind {labels.problem}, but method.classification.problem is "
            f"{requested}. Omit that field."
        )
        raise AttemptFailed(FailureReason.INVALID_RECIPE, message, param="method.classification.problem")
    return labels
