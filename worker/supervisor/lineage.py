"""The fine-tuned models that a job needs, fetched into its run folder: an adapter to continue, a whole model that
replaces the base model's weights, and reward models."""

import json
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import TypeAdapter

from api.infra.artifacts import digest_of, trained_artifacts
from api.records import base_models, models
from api.records.base_models import BaseModelRow
from api.records.jobs import Job
from api.spec.artifacts import Artifact
from api.spec.catalog import METHODS
from api.spec.recipe import Recipe
from api.spec.techniques import Technique
from worker.supervisor.damage import raise_on_damage
from worker.supervisor.inputs import (
    BaseModelGone,
    cache_folder,
    discard_if_damaged,
    fetch_artifacts,
    fetch_base,
    fetch_cached,
)
from worker.supervisor.node import Node

WEIGHTS_ROLE = "whose weights this job starts from"
TECHNIQUE = TypeAdapter[Technique](Technique)


class ParentDeleted(Exception):
    """A fine-tuned model that the job needs was deleted while the job waited."""

    def __init__(self, name: str, role: str, param: str) -> None:
        super().__init__(f"{name}, {role}, was deleted while the job waited")
        self.param = param


def fetch_weights(node: Node, job: Job, base: BaseModelRow) -> Path:
    """Return the folder of the model that the job starts from: the base model, or a fully fine-tuned model in its
    place. Raises ParentDeleted if that model was deleted."""
    if job.base_weights is None:
        return fetch_base(node, base)
    _, artifacts = _producer(node, job.base_weights, WEIGHTS_ROLE, "model")
    with _raise_on_damaged_model(job.base_weights, "model"):
        return fetch_cached(node, digest_of(artifacts), artifacts)


def weights_are_damaged(node: Node, job: Job, base: BaseModelRow) -> bool:
    """Return whether this worker's cached copy of the weights that the job starts from is damaged. If so, delete the
    copy."""
    digest, artifacts = base.digest, base.artifacts
    if job.base_weights is not None:
        _, artifacts = _producer(node, job.base_weights, WEIGHTS_ROLE, "model")
        digest = digest_of(artifacts)
    return discard_if_damaged(artifacts, cache_folder(node, digest))


def _raise_on_damaged_model(model: str, param: str) -> AbstractContextManager[None]:
    return raise_on_damage(f"The model {model}", "Train it again, or name another.", code="damaged_model", param=param)


def fetch_parent_adapter(node: Node, job: Job, folder: Path) -> None:
    """Fetch the adapter that the job continues, if there is one. Raises ParentDeleted if that adapter was deleted."""
    if job.parent_model is None or job.parent_model == job.base_weights:
        return
    _, artifacts = _producer(node, job.parent_model, "which this job continues", "model")
    with _raise_on_damaged_model(job.parent_model, "model"):
        fetch_artifacts(node.storage, artifacts, folder)


def fetch_reward_models(node: Node, recipe: Recipe, folder: Path) -> None:
    """Write judges.json, {model: {folder, technique}}, and the reward models' folders.

    Graders may also name chat models. These are not fetched, because the supervisor asks them (judging.py). An
    adapter's base model is linked as `base/` in the adapter's folder. Raises ParentDeleted if a reward model was
    deleted, BaseModelGone if its base model was removed.
    """
    listed: dict[str, dict[str, object]] = {}
    for use in recipe.method.named_models:
        param, name = use.param, use.model
        if name in listed or (not use.reads_tokens and _is_chat_model(node, name)):
            continue
        producer, artifacts = _producer(node, name, "which gives the rewards", param)
        subfolder = f"judges/{len(listed)}"
        with _raise_on_damaged_model(name, param):
            cached = fetch_cached(node, digest_of(artifacts), artifacts)
        _link_files(cached, folder / subfolder)
        technique = TECHNIQUE.validate_python(producer.recipe["technique"]).as_published()
        if not technique.whole_model:
            with node.context.database.read() as session:
                base = base_models.get(session, producer.base_model)
            if base is None:
                raise BaseModelGone(producer.base_model)
            (folder / subfolder / "base").symlink_to(fetch_weights(node, producer, base))
        listed[name] = {"folder": subfolder, "technique": technique.model_dump(mode="json")}
    if listed:
        (folder / "judges.json").write_text(json.dumps(listed, indent=2))


def _is_chat_model(node: Node, name: str) -> bool:
    if name in node.context.settings.judges:
        return True
    with node.context.database.read() as session:
        if base_models.get(session, name) is not None:
            return True
    producer = producing_job(node, name)
    return producer is not None and METHODS[producer.recipe["method"]["type"]].output == "tokens"


def producing_job(node: Node, name: str) -> Job | None:
    """Return the job that produced a model or a checkpoint; None if the model was deleted.

    The producing job may belong to any project: permission to use its model is checked when a job is created, and not
    again.
    """
    with node.context.database.read() as session:
        model = models.find_in_any_project(session, name)
        return None if model is None else session.get_one(Job, model.job_id)


def _producer(node: Node, name: str, role: str, param: str) -> tuple[Job, list[Artifact]]:
    """Return the job that produced the model, and the model's artifacts without merged and GGUF forms. If the model was
    deleted, raises ParentDeleted with `role` in its message, and `param`."""
    with node.context.database.read() as session:
        model = models.find_in_any_project(session, name)
        if model is None:
            raise ParentDeleted(name, role, param)
        return session.get_one(Job, model.job_id), trained_artifacts(model.artifacts)


def _link_files(cached: Path, folder: Path) -> None:
    """Create the folder with a link to each cached file. The cached folder itself is not linked, because all jobs share
    it and the caller adds `base/` to the new folder."""
    folder.mkdir(parents=True)
    for path in cached.iterdir():
        (folder / path.name).symlink_to(path)
