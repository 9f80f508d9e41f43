"""Layers that a technique names, checked before a job is accepted.

Users' patterns are matched here, which takes as long as they make it take: no session is open meanwhile.
"""

from api.context import Caller, Context
from api.errors import InvalidRequest
from api.estimate.shapes import require_layers
from api.estimate.targets import NoTargetModules
from api.records.base_models import BaseModelRow
from api.services import lineage
from api.services.lineage import Origin
from api.spec import catalog, patterns
from api.spec.pipeline import REFERENCE, StageRecipe
from api.spec.recipe import Recipe


class NoSuchLayer(InvalidRequest):
    """The technique names layers that the base model does not have, or that cannot be adapted."""

    code = "no_such_layer"


class UnusablePattern(InvalidRequest):
    code = "invalid_value"


def check(context: Context, caller: Caller, recipe: Recipe) -> None:
    """Raise InvalidRequest for layers that the technique cannot be put beside, and where there is no such model."""
    with context.database.read() as session:
        origin = lineage.find(session, caller.project_id, recipe.model, {})
    require(recipe, origin)


def require(recipe: Recipe, origin: Origin) -> None:
    """The same, of a model that was found. An adapter that is continued keeps the layers that it has."""
    _require_patterns(recipe)
    recipe = lineage.continued(recipe, origin)
    if origin.technique is None:
        _require_layers(recipe, origin.base)


def check_stage(context: Context, caller: Caller, recipe: StageRecipe, whole: dict[str, BaseModelRow]) -> None:
    """The same, of a stage of a pipeline. `whole`: earlier stages that publish whole models, with their base models;
    this one is added, if it does."""
    if recipe.model.startswith(REFERENCE):
        _require_patterns(recipe)
        base = whole.get(recipe.model.removeprefix(REFERENCE))
        if base is None:
            return  # it continues an adapter, which keeps its layers, or names no stage, which is refused later
        _require_layers(recipe, base)
    else:
        with context.database.read() as session:
            origin = lineage.find(session, caller.project_id, recipe.model, {})
        require(recipe, origin)
        if origin.technique is not None:
            return
        base = origin.base
    if recipe.technique.type == "full":
        whole[recipe.name] = base


def _require_patterns(recipe: Recipe) -> None:
    for field, given in recipe.technique.patterns().items():
        try:
            patterns.require(given)
        except patterns.BadPattern as error:
            raise UnusablePattern(f"technique.{field}: {error}", param=f"technique.{field}") from None


def _require_layers(recipe: Recipe, base: BaseModelRow) -> None:
    if catalog.refusal(recipe.technique, recipe.method, base.facts):
        return  # which is what is said of it
    try:
        require_layers(recipe.technique, recipe.method, base.facts)
    except NoTargetModules as no_place:
        raise NoSuchLayer(str(no_place), param=no_place.param) from None
