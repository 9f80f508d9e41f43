"""What of a resolved recipe depends on more than the rows: the labels, the model that it goes on from, the merging."""

from typing import TypedDict

from api.fields import AUTO
from api.lifecycle import FailureReason
from api.recipe import Labels, Recipe
from api.records.arrays import Arrays
from api.records.base_models import BaseModel
from api.records.jobs import Job
from worker.supervisor.faults import AttemptFailed
from worker.supervisor.node import Node
from worker.supervisor.parents import ModelGone, maker_of


class Settled(TypedDict):
    """Arguments of api.recipe.resolve."""

    labels: Labels | None
    base_model: str
    merged: bool


def settle(node: Node, job: Job, recipe: Recipe, base: BaseModel, train: Arrays) -> Settled:
    """Raises AttemptFailed, ModelGone."""
    largest = node.context.settings.merged_max_parameters
    asked = recipe.export.merged
    wanted = base.facts["parameters"] <= largest if asked == AUTO else asked
    return Settled(
        labels=_labels(node, job, recipe, train),
        base_model=job.base_weights or job.base_model,
        merged=recipe.technique.merges and wanted,
    )


def _labels(node: Node, job: Job, recipe: Recipe, train: Arrays) -> Labels | None:
    """Those of the rows; or, where the job trains a classifier on, those that it has, in its order."""
    if recipe.method.output != "labels":
        return None
    found = Labels(problem=train.report["problem"], names=tuple(train.report["label_names"] or ()))
    if job.parent_model is None:
        return found
    maker = maker_of(node, job.parent_model)
    if maker is None:
        raise ModelGone(job.parent_model, "which this job continues", "model")
    had = (maker.resolved or {}).get("labels")
    if had is None:  # it gave tokens
        return found
    known = Labels.model_validate(had)
    if known.problem != found.problem:
        message = f"{job.parent_model} was trained on labels of the kind {known.problem}, these are {found.problem}"
        raise AttemptFailed(FailureReason.INVALID_FILE, message, param="training_file")
    if unknown := [name for name in found.names if name not in known.names]:
        message = f"The training file has labels that {job.parent_model} has not: {', '.join(unknown)[:200]}"
        raise AttemptFailed(FailureReason.INVALID_FILE, message, param="training_file")
    return known
