"""The catalogue of graders: what gives an answer its reward. A new one is a file here and a name in this union."""

from typing import Annotated

from pydantic import Field

from api.graders.base import Case, GraderBase, GradingError, Messages, Scores
from api.graders.grade import Errors, Grade, Metadata, grade
from api.graders.multi import Multi
from api.graders.python import Python
from api.graders.score_model import ScoreModel
from api.graders.string_check import StringCheck
from api.graders.text_similarity import TextSimilarity

Grader = Annotated[StringCheck | TextSimilarity | ScoreModel | Multi | Python, Field(discriminator="type")]

__all__ = ["Case", "Errors", "Grade", "Grader", "GraderBase", "GradingError", "Messages", "Metadata", "Scores", "grade"]
