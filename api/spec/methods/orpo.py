from typing import ClassVar, Literal

from pydantic import Field

from api.spec.fields import OrNull
from api.spec.methods.base import MethodBase, Options, Positive


class OrpoOptions(Options):
    odds_ratio_weight: Positive = 0.1
    """λ: weight of the odds-ratio term, relative to the likelihood of the preferred answer. Default 0.1."""


class Orpo(MethodBase):
    """Odds-ratio preference optimization: supervised fine-tuning and preference in one loss, without a reference (Hong
    et al. 2024, arXiv:2403.07691)."""

    summary: ClassVar[str] = "Learn the preferred answer and lower the odds of the other, without a reference."
    formats: ClassVar[frozenset[str]] = frozenset({"preference"})
    learning_rate_factor: ClassVar[float] = 0.5
    full_learning_rate: ClassVar[float | None] = 5e-6  # the paper trains at 5e-6 to 8e-6

    type: Literal["orpo"] = "orpo"
    orpo: OrNull[OrpoOptions] = Field(default_factory=OrpoOptions)
