from typing import Annotated, ClassVar, Literal

from pydantic import Field

from api.techniques.base import TechniqueBase


class Lora(TechniqueBase):
    """Low-rank adaptation: h = W x + (alpha / r) B A x, with W frozen (Hu et al. 2021, arXiv:2106.09685)."""

    summary: ClassVar[str] = "Train a low-rank update beside frozen weights and publish a small adapter."
    default_learning_rate: ClassVar[float] = 2e-4

    type: Literal["lora"] = "lora"
    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """r in the paper: the inner dimension of B A."""
    alpha: float = Field(gt=0, le=65536, default_factory=lambda given: 2.0 * given.get("rank", 1))
    """The paper's alpha; the update is scaled by alpha / rank. Default: twice the rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability with which an input of the update is dropped while training."""
    target_modules: (
        Literal["all-linear"] | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    ) = "all-linear"
    """Which linear layers get an update: "all-linear" (every one but the output head) or names as in the model."""
