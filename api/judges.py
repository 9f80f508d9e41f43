"""Which reward models a method asks for rewards. Pure."""

from api.graders import GraderBase
from api.graders.score_model import ScoreModel
from api.methods import Method


def reward_models(method: Method) -> dict[str, str]:
    """Field of the recipe → the model that it names."""
    options = method.options
    place = f"method.{method.type}"
    found: dict[str, str] = {}
    if name := getattr(options, "reward_model", None):
        found[f"{place}.reward_model"] = name
    grader: GraderBase | None = getattr(options, "grader", None)
    if isinstance(grader, ScoreModel):
        found[f"{place}.grader.model"] = grader.model
    elif grader is not None:
        parts = {name: part for name, part in grader.parts.items() if isinstance(part, ScoreModel)}
        found |= {f"{place}.grader.graders.{name}.model": part.model for name, part in parts.items()}
    return found
