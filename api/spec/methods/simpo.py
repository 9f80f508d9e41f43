from typing import ClassVar, Literal

from pydantic import Field

from api.spec.fields import OrNull
from api.spec.methods.base import MethodBase, NotNegative, Options, Positive


class SimpoOptions(Options):
    beta: Positive = 2.0
    """β: factor of the mean log-probability per token. Default 2."""
    margin: NotNegative = 1.0
    """γ: target difference between the rewards of the preferred answer and the other. Default 1."""


class Simpo(MethodBase):
    """Simple preference optimization: length-normalized, with a margin, without a reference (Meng et al. 2024,
    arXiv:2405.14734)."""

    summary: ClassVar[str] = "Prefer one answer to another by likelihood per token, without a reference."
    formats: ClassVar[frozenset[str]] = frozenset({"preference"})
    learning_rate_factor: ClassVar[float] = 0.25
    full_learning_rate: ClassVar[float | None] = 1e-6  # the paper finds 3e-7 to 1e-6

    type: Literal["simpo"] = "simpo"
    simpo: OrNull[SimpoOptions] = Field(default_factory=SimpoOptions)
