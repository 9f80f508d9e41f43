"""The catalogue of graders: what gives an answer its reward. A new one is a file here, and a name in the
union of api.spec.graders.single."""

from typing import Annotated

from pydantic import Field

from api.spec.graders.base import Case, GraderBase, GradingError, Messages, Scores
from api.spec.graders.grade import Errors, Grade, Metadata, grade
from api.spec.graders.multi import Multi
from api.spec.graders.single import SingleGrader

Grader = Annotated[SingleGrader | Multi, Field(discriminator="type")]

__all__ = ["Case", "Errors", "Grade", "Grader", "GraderBase", "GradingError", "Messages", "Metadata", "Scores", "grade"]
