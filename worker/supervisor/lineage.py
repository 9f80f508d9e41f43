"""What a job goes on from, fetched into its run folder: an adapter to continue, a whole model in place of the base, and
the reward models that judge its answers."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from api.infra.artifacts import digest_of, trained_artifacts
from api.records import base_models, models
from api.records.base_models import BaseModelRow
from api.records.jobs import Job
from api.spec.artifacts import Artifact
from api.spec.recipe import Recipe
from api.spec.techniques import Technique
from worker.supervisor.damage import raise_on_damage
from worker.supervisor.inputs import BaseModelGone, cached, fetch_artifacts, fetch_base, fetch_cached, is_damaged
from worker.supervisor.node import Node

BEGUN_FROM = "whose weights this job begins from"
TECHNIQUE = TypeAdapter[Technique](Technique)


class ParentDeleted(Exception):
    """A fine-tuned model that the job needs was deleted while it waited."""

    def __init__(self, name: str, role: str, param: str) -> None:
        super().__init__(f"{name}, {role}, was deleted while the job waited")
        self.param = param


def fetch_weights(node: Node, job: Job, base: BaseModelRow) -> Path:
    """The folder of the weights on which the job's adapter lies, or which it trains itself. Raises ParentDeleted."""
    if job.base_weights is None:
        return fetch_base(node, base)
    _, artifacts = _made(node, job.base_weights, BEGUN_FROM, "model")
    with _named(job.base_weights, "model"):
        return fetch_cached(node, digest_of(artifacts), artifacts)


def weights_are_damaged(node: Node, job: Job, base: BaseModelRow) -> bool:
    """Return whether this worker's copy of those weights is not what was stored; then it is fetched anew next time."""
    digest, artifacts = base.digest, base.artifacts
    if job.base_weights is not None:
        _, artifacts = _made(node, job.base_weights, BEGUN_FROM, "model")
        digest = digest_of(artifacts)
    return is_damaged(artifacts, cached(node, digest))


def _named(model: str, param: str) -> AbstractContextManager[None]:
    return raise_on_damage(f"The model {model}", "Train it again, or name another.", code="damaged_model", param=param)


def fetch_parent_adapter(node: Node, job: Job, folder: Path) -> None:
    """The adapter that the job continues, if it does. Raises ParentDeleted."""
    if job.parent_model is None or job.parent_model == job.base_weights:
        return
    _, artifacts = _made(node, job.parent_model, "which this job continues", "model")
    with _named(job.parent_model, "model"):
        fetch_artifacts(node.context.storage, artifacts, folder)


def fetch_reward_models(node: Node, recipe: Recipe, folder: Path) -> None:
    """judges.json, {model: {folder, technique}}, and their folders, each with its base in `base/` if it is an adapter.

    Raises ParentDeleted, BaseModelGone.
    """
    listed: dict[str, Any] = {}
    for use in recipe.method.reward_models:
        param, name = use.param, use.model
        if name in listed:
            continue
        maker, artifacts = _made(node, name, "the reward model", param)
        place = f"judges/{len(listed)}"
        with _named(name, param):
            fetched = fetch_cached(node, digest_of(artifacts), artifacts)
        _link_files(fetched, folder / place)
        technique = TECHNIQUE.validate_python(maker.recipe["technique"]).as_published()
        if not technique.whole_model:
            with node.context.database.read() as session:
                base = base_models.get(session, maker.base_model)
            if base is None:
                raise BaseModelGone(maker.base_model)
            (folder / place / "base").symlink_to(fetch_weights(node, maker, base))
        listed[name] = {"folder": place, "technique": technique.model_dump(mode="json")}
    if listed:
        (folder / "judges.json").write_text(json.dumps(listed, indent=2))


def producing_job(node: Node, name: str) -> Job | None:
    """The job that made a model or a checkpoint; None if that is not there any more.

    Of whatever project: what a job names was its own or permitted to it when it was accepted, and it keeps that.
    """
    with node.context.database.read() as session:
        made = models.named(session, name)
        return None if made is None else session.get_one(Job, made.job_id)


def _made(node: Node, name: str, role: str, param: str) -> tuple[Job, list[Artifact]]:
    """The job that made it, and the artifacts without the merged model."""
    with node.context.database.read() as session:
        made = models.named(session, name)
        if made is None:
            raise ParentDeleted(name, role, param)
        return session.get_one(Job, made.job_id), trained_artifacts(made.artifacts)


def _link_files(cached: Path, folder: Path) -> None:
    """A folder of links: its base has to stand in it, and the cached one is everybody's."""
    folder.mkdir(parents=True)
    for path in cached.iterdir():
        (folder / path.name).symlink_to(path)
