"""The request body of a pipeline: several recipes, each of which may start from an earlier one's model. Pure.

`{"model", "training"?, "suffix"?, "metadata"?, "stages": [{"name", …a job's fields}]}`. A stage without a model
continues the model of the nearest earlier stage whose model generates tokens. If there is no such stage, it starts from
the pipeline's model. A `ppo` stage without a reward model or grader uses the model of the nearest earlier `reward`
stage. `"stage:NAME"` selects a stage explicitly.
"""

from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import Field, model_validator

from api.spec.catalog import method_of
from api.spec.fields import NulFreeModel, OrNull
from api.spec.methods import Output
from api.spec.recipe import Metadata, Recipe, Training

REFERENCE = "stage:"
MAX_STAGES = 16
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")]


class StageRecipe(Recipe):
    name: Name
    """Name by which later stages refer to this one."""


class Pipeline(NulFreeModel):
    """The body of `POST /v1/fine_tuning/pipelines`."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    """The model that the first stage starts from."""
    training: OrNull[Training] = Field(default_factory=Training)
    """Defaults for the `training` of every stage."""
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Suffix of the models of all stages that give none, followed by the stage's name."""
    metadata: Metadata | None = None
    """Metadata of the jobs of all stages that give none."""
    stages: Annotated[list[StageRecipe], Field(min_length=1, max_length=MAX_STAGES)]

    @model_validator(mode="before")
    @classmethod
    def _linked(cls, body: object) -> object:
        """Fill in the fields that stages leave out. Values that are not objects are left unchanged: the fields' own
        validation reports them."""
        if not isinstance(body, dict) or not isinstance(body.get("stages"), list):
            return body
        stages: list[object] = []
        before: list[tuple[str, Output]] = []
        for stage in body["stages"]:
            if not isinstance(stage, dict):
                stages.append(stage)
                continue
            linked = _with_defaults(stage, body) | _links(stage, body.get("model"), before)
            stages.append(linked)
            method = method_of(_method(stage).get("type", "supervised"))
            if method is not None and isinstance(stage.get("name"), str):
                before.append((stage["name"], method.output))
        return {**body, "stages": stages}


def _with_defaults(stage: dict[str, object], body: dict[str, object]) -> dict[str, object]:
    filled = dict(stage)
    training, default = stage.get("training"), body.get("training")
    if isinstance(default, dict) and isinstance(training, dict | None):
        filled["training"] = {**default, **(training or {})}
    if stage.get("suffix") is None and isinstance(body.get("suffix"), str):
        filled["suffix"] = f"{body['suffix']}-{stage.get('name')}"[:64]
    if stage.get("metadata") is None and body.get("metadata") is not None:
        filled["metadata"] = body["metadata"]
    return filled


def _links(stage: dict[str, object], model: object, before: list[tuple[str, Output]]) -> dict[str, object]:
    """Return the fields to fill in for a stage that leaves out its model or reward model: references to earlier stages,
    or the pipeline's `model`."""
    links: dict[str, object] = {}
    if stage.get("model") is None:
        links["model"] = _nearest(before, "tokens") or model
    method = _method(stage)
    name = method.get("type")
    entry = method_of(name)
    if isinstance(name, str) and entry is not None and entry.takes_reward_model:
        options = method.get(name) or {}
        if isinstance(options, dict) and options.get("reward_model") is None and options.get("grader") is None:
            links["method"] = {**method, name: {**options, "reward_model": _nearest(before, "reward")}}
    return links


def _method(stage: dict[str, object]) -> dict[str, object]:
    method = stage.get("method")
    return method if isinstance(method, dict) else {}


def _nearest(before: list[tuple[str, Output]], output: Output) -> str | None:
    return next((REFERENCE + name for name, gives in reversed(before) if gives == output), None)


def references(recipe: Mapping[str, object]) -> set[str]:
    """Return the names of the stages that a recipe refers to. `recipe`: the recipe as plain data."""
    names: set[str] = set()

    def collect(name: str) -> str:
        names.add(name)
        return REFERENCE + name

    _with_references(recipe, collect)
    return names


def resolved_references(recipe: Mapping[str, object], models: Mapping[str, str]) -> dict[str, object]:
    """Return the recipe with the id of the stage's model in place of each reference to a stage. `models`: {stage: model
    id}."""
    return _with_references(recipe, models.__getitem__)


def _with_references(recipe: Mapping[str, object], of_stage: Callable[[str], str]) -> dict[str, object]:
    """Return the recipe with `of_stage(NAME)` in place of each reference `stage:NAME` in `model` and `method`. Other
    fields are users' text and stay unchanged."""
    referring = {key: recipe[key] for key in ("model", "method") if key in recipe}
    return {**recipe, **_replaced_fields(referring, of_stage)}


def _replaced_fields(fields: Mapping[str, object], of_stage: Callable[[str], str]) -> dict[str, object]:
    return {key: _replaced(key, value, of_stage) for key, value in fields.items()}


def _replaced(key: str, value: object, of_stage: Callable[[str], str]) -> object:
    match value:
        case str() if key in ("model", "reward_model") and value.startswith(REFERENCE):
            return of_stage(value.removeprefix(REFERENCE))
        case dict():
            return _replaced_fields(value, of_stage)
        case list():
            return [_replaced("", item, of_stage) for item in value]
    return value
