from typing import ClassVar, Literal

from pydantic import Field

from api.spec.fields import OrNull
from api.spec.methods.base import MethodBase, Options


class BrierOptions(Options):
    exponent: Literal[1, 2] = 2
    """k"""


class Brier(MethodBase):
    """(1 - p)^k of each supervised token's probability p (after Brier 1950)."""

    summary: ClassVar[str] = "Learn probabilities by a bounded score."
    formats: ClassVar[frozenset[str]] = frozenset({"riddle"})

    type: Literal["brier"] = "brier"
    brier: OrNull[BrierOptions] = Field(default_factory=BrierOptions)
