"""The criteria of an eval: graders that also decide whether an item passes."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import BeforeValidator, Field

from api.spec.graders.label_model import LabelModel
from api.spec.graders.model_grader import ModelGrader
from api.spec.graders.python import Python
from api.spec.graders.score_model import ScoreModel
from api.spec.graders.string_check import StringCheck
from api.spec.graders.text_similarity import TextSimilarity

MAX_CRITERIA = 64
"""Maximum number of criteria of an eval."""
HALF = 0.5
"""Lowest reward with which an item passes, for criteria that have neither a threshold nor a range."""


class TextSimilarityCriterion(TextSimilarity):
    pass_threshold: float
    """Lowest similarity with which an item passes."""


class PythonCriterion(Python):
    pass_threshold: float | None = None
    """Lowest reward with which an item passes. Null: 0.5."""


class ScoreModelCriterion(ScoreModel):
    pass_threshold: float | None = None
    """Lowest score with which an item passes. Null: the middle of the range."""


def _no_multi(criterion: object) -> object:
    if isinstance(criterion, dict) and criterion.get("type") == "multi":
        raise ValueError(
            "'multi' cannot be a criterion of an eval, nor can it at OpenAI: give each of its graders as a criterion "
            "of its own"
        )
    return criterion


Criterion = Annotated[
    Annotated[
        StringCheck | TextSimilarityCriterion | PythonCriterion | ScoreModelCriterion | LabelModel,
        Field(discriminator="type"),
    ],
    BeforeValidator(_no_multi),
]


def passes(criterion: Criterion, reward: float) -> bool:
    """Return whether an item with this reward passes."""
    return reward >= threshold(criterion)


def threshold(criterion: Criterion) -> float:
    if isinstance(criterion, StringCheck | LabelModel):
        return 1.0
    if criterion.pass_threshold is not None:
        return criterion.pass_threshold
    if isinstance(criterion, ScoreModel) and criterion.range is not None:
        return sum(criterion.range) / 2
    return HALF


def templates(criterion: Criterion) -> Iterator[tuple[str, str]]:
    """Yield (path of the field, text) of each template of the criterion."""
    if isinstance(criterion, ModelGrader):
        for number, message in enumerate(criterion.input):
            yield from ((f"input.{number}", text) for text in message.texts)
    elif not isinstance(criterion, Python):
        yield "input", criterion.input
        yield "reference", criterion.reference
