"""The criteria of an eval: graders that also decide whether an item passes."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import BeforeValidator, Field

from api.spec.graders.python import Python
from api.spec.graders.string_check import StringCheck
from api.spec.graders.text_similarity import TextSimilarity

HALF = 0.5
"""Reward from which an item passes a script that has no threshold."""


class TextSimilarityCriterion(TextSimilarity):
    pass_threshold: float
    """Similarity from which an item passes."""


class PythonCriterion(Python):
    pass_threshold: float | None = None
    """Reward from which an item passes. Null: 0.5."""


def _no_multi(criterion: object) -> object:
    if isinstance(criterion, dict) and criterion.get("type") == "multi":
        raise ValueError(
            "'multi' is not a criterion of an eval, as at OpenAI: give each of its graders as a criterion of its own"
        )
    return criterion


Criterion = Annotated[
    Annotated[StringCheck | TextSimilarityCriterion | PythonCriterion, Field(discriminator="type")],
    BeforeValidator(_no_multi),
]


def passes(criterion: Criterion, reward: float) -> bool:
    """Return whether an item with this reward passes."""
    return reward >= threshold(criterion)


def threshold(criterion: Criterion) -> float:
    if isinstance(criterion, StringCheck):
        return 1.0
    return HALF if criterion.pass_threshold is None else criterion.pass_threshold


def templates(criterion: Criterion) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each template of the criterion."""
    if not isinstance(criterion, Python):
        yield "input", criterion.input
        yield "reference", criterion.reference
