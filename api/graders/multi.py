import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from api.graders import formula
from api.graders.base import Case, GraderBase, Name, Scores
from api.graders.python import Python
from api.graders.score_model import ScoreModel
from api.graders.string_check import StringCheck
from api.graders.text_similarity import TextSimilarity

MAX_PARTS = 16

Part = Annotated[StringCheck | TextSimilarity | ScoreModel | Python, Field(discriminator="type")]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def _one_or_several(graders: Any) -> str:
    kind = graders.get("type") if isinstance(graders, dict) else getattr(graders, "type", None)
    return "one" if isinstance(kind, str) else "several"


Parts = Annotated[
    Annotated[Part, Tag("one")] | Annotated[dict[str, Part], Field(min_length=1, max_length=MAX_PARTS), Tag("several")],
    Discriminator(_one_or_several),
]


class Multi(GraderBase):
    """One reward from several, by a formula over their names."""

    summary: ClassVar[str] = "Several graders in one formula."

    type: Literal["multi"]
    name: Name = "multi"
    """OpenAI's client asks for one, its guides leave it out."""
    graders: Parts
    """Names to graders, as OpenAI's guides have it; or a single grader, as its client has it, under its own name."""
    calculate_output: Annotated[str, Field(min_length=1, max_length=formula.MAX_LENGTH)]
    """Arithmetic over the names: + - * / ^ ( ), abs, ceil, exp, floor, log, max, min, sqrt."""

    @model_validator(mode="after")
    def _formula_fits_the_names(self) -> Self:
        for name in self.parts:
            if not _VARIABLE.fullmatch(name) or name in formula.FUNCTIONS:
                raise ValueError(
                    f"graders: '{name[:64]}' cannot stand in calculate_output: a name is of letters, digits and _, and "
                    "none of its functions"
                )
        try:
            unknown = formula.variables(self.calculate_output) - self.parts.keys()
        except formula.FormulaError as error:
            raise ValueError(f"calculate_output: {error}") from None
        if unknown:
            raise ValueError(f"calculate_output: '{min(unknown)}' is not the name of one of the graders")
        return self

    @property
    def parts(self) -> Mapping[str, GraderBase]:
        return self.graders if isinstance(self.graders, dict) else {self.graders.name: self.graders}

    def reward(self, case: Case, rewards: Mapping[str, float], scores: Scores | None) -> float:
        return formula.evaluate(self.calculate_output, rewards)
