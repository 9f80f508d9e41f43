"""The layers that a technique names, checked before a job is accepted.

Matching users' patterns against a model's layers can take long, so it happens while no session is open.
"""

from api.errors import InvalidRequest
from api.estimate.shapes import require_layers
from api.records.base_models import BaseModelRow
from api.services.lineage import Origin
from api.spec import catalog, patterns
from api.spec.recipe import Recipe
from api.spec.target_modules import NoTargetModules


class NoSuchLayer(InvalidRequest):
    """The technique names layers that the base model does not have, or that cannot be adapted."""

    code = "no_such_layer"


class UnusablePattern(InvalidRequest):
    code = "invalid_value"


def require(recipe: Recipe, origin: Origin) -> None:
    """Raise InvalidRequest unless the technique's patterns are valid and the model has the layers that they name.

    If the job continues an adapter, the layers are not checked: the adapter keeps those that it has.
    """
    require_patterns(recipe)
    if origin.technique is None:
        require_of_base(recipe, origin.base)


def require_patterns(recipe: Recipe) -> None:
    """Raise UnusablePattern if a pattern of the technique is not valid RE2 or is too large."""
    for field, given in recipe.technique.patterns().items():
        try:
            patterns.require(given)
        except patterns.BadPattern as error:
            raise UnusablePattern(f"technique.{field}: {error}", param=f"technique.{field}") from None


def require_of_base(recipe: Recipe, base: BaseModelRow) -> None:
    """Raise NoSuchLayer unless the base model has the layers that the technique trains.

    A combination that the catalogue refuses is left to `admission.validate`, whose message is clearer.
    """
    if catalog.refusal(recipe.technique, recipe.method, base.facts):
        return
    try:
        require_layers(recipe.technique, recipe.method, base.facts)
    except NoTargetModules as error:
        raise NoSuchLayer(str(error), param=error.param) from None
