"""The catalogue of graders, which give an answer its reward. To add one, add a file here and a name to the union in
api.spec.graders.single."""

from typing import Annotated

from pydantic import Field

from api.spec.graders.base import Case, GraderBase, GradingError, Messages, NamedModel, Question, Verdict, Verdicts
from api.spec.graders.grade import Errors, Grade, Metadata, grade
from api.spec.graders.multi import Multi
from api.spec.graders.single import SingleGrader

Grader = Annotated[SingleGrader | Multi, Field(discriminator="type")]

__all__ = [
    "Case",
    "Errors",
    "Grade",
    "Grader",
    "GraderBase",
    "GradingError",
    "Messages",
    "Metadata",
    "NamedModel",
    "Question",
    "Verdict",
    "Verdicts",
    "grade",
]
