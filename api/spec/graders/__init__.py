"""The catalogue of graders: what gives an answer its reward. A new one is a file here and a name in this union."""

from typing import Annotated

from pydantic import Field

from api.spec.graders.base import Case, GraderBase, GradingError, Messages, Scores
from api.spec.graders.grade import Errors, Grade, Metadata, grade
from api.spec.graders.multi import Multi
from api.spec.graders.python import Python
from api.spec.graders.score_model import ScoreModel
from api.spec.graders.string_check import StringCheck
from api.spec.graders.text_similarity import TextSimilarity

Grader = Annotated[StringCheck | TextSimilarity | ScoreModel | Multi | Python, Field(discriminator="type")]

__all__ = ["Case", "Errors", "Grade", "Grader", "GraderBase", "GradingError", "Messages", "Metadata", "Scores", "grade"]
