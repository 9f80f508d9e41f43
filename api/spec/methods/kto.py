from typing import ClassVar, Literal

from pydantic import Field

from api.spec.fields import OrNull
from api.spec.methods.base import MethodBase, Options, Positive


class KtoOptions(Options):
    beta: Positive = 0.1
    """β: how quickly the value of a gain saturates. Default 0.1."""
    desirable_weight: Positive = 1.0
    """λ_D: weight of good answers. Default 1."""
    undesirable_weight: Positive = 1.0
    """λ_U: weight of bad answers. Default 1. The paper advises λ_D n_D / (λ_U n_U) between 1 and 4/3."""


class Kto(MethodBase):
    """Kahneman-Tversky optimization: single answers, each good or bad (Ethayarajh et al. 2024, arXiv:2402.01306)."""

    summary: ClassVar[str] = "Learn from answers that are each marked good or bad."
    formats: ClassVar[frozenset[str]] = frozenset({"unpaired", "preference"})
    learning_rate_factor: ClassVar[float] = 0.25
    full_learning_rate: ClassVar[float | None] = 1e-6  # the paper trains at 5e-7, TRL at 1e-6
    splits_pairs: ClassVar[bool] = True
    reference_passes: ClassVar[float] = 2.0  # one over the row, one over its mismatched answer
    extra_passes: ClassVar[float] = 1.0  # over the mismatched answers
    smallest_batch: ClassVar[int] = 16  # the divergence is estimated from the step's mismatched answers

    type: Literal["kto"] = "kto"
    kto: OrNull[KtoOptions] = Field(default_factory=KtoOptions)
