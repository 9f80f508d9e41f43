import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator

from api.spec.formats.base import truncate
from api.spec.graders import formula
from api.spec.graders.base import Case, GraderBase, Name, Verdicts
from api.spec.graders.single import SingleGrader

MAX_PARTS = 16

Part = Annotated[SingleGrader, Field(discriminator="type")]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def _one_or_several(graders: object) -> str:
    kind = graders.get("type") if isinstance(graders, dict) else getattr(graders, "type", None)
    return "one" if isinstance(kind, str) else "several"


Parts = Annotated[
    Annotated[Part, Tag("one")] | Annotated[dict[str, Part], Field(min_length=1, max_length=MAX_PARTS), Tag("several")],
    Discriminator(_one_or_several),
]


def _named(graders: GraderBase | Mapping[str, GraderBase]) -> Mapping[str, GraderBase]:
    return {graders.name: graders} if isinstance(graders, GraderBase) else graders


class Multi(GraderBase):
    """A reward that a formula computes from the rewards of several graders."""

    summary: ClassVar[str] = "Several graders in one formula."

    type: Literal["multi"]
    name: Name = "multi"
    """Optional, as in OpenAI's guides. OpenAI's client requires a name."""
    graders: Parts
    """Graders by name, as in OpenAI's guides; or one grader under its own name, as in its client."""
    calculate_output: Annotated[str, Field(min_length=1, max_length=formula.MAX_LENGTH)]
    """Arithmetic over the names: + - * / ^ ( ), abs, ceil, exp, floor, log, max, min, sqrt."""

    @field_validator("graders")
    @classmethod
    def _names_fit_a_formula(cls, graders: Parts) -> Parts:
        for name in _named(graders):
            if not _VARIABLE.fullmatch(name) or name in formula.FUNCTIONS:
                raise ValueError(
                    f"'{truncate(name)}' cannot be used in calculate_output: a name has letters, digits and _ "
                    "only, and is not the name of a function"
                )
        return graders

    @field_validator("calculate_output")
    @classmethod
    def _formula_fits_the_names(cls, text: str, info: ValidationInfo) -> str:
        used = formula.variables(text)
        if "graders" in info.data and (unknown := used - _named(info.data["graders"]).keys()):
            raise ValueError(f"'{min(unknown)}' is not the name of a grader")
        return text

    @property
    def parts(self) -> Mapping[str, GraderBase]:
        return _named(self.graders)

    def reward(self, case: Case, rewards: Mapping[str, float], verdicts: Verdicts) -> float:
        return formula.evaluate(self.calculate_output, rewards)
