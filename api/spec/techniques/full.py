from typing import ClassVar, Literal

from api.spec.techniques.base import TechniqueBase


class Full(TechniqueBase):
    """Every weight of the base model is trained; what is published is a whole model."""

    summary: ClassVar[str] = "Train every weight of the base model and publish a whole model."
    default_learning_rate: ClassVar[float] = 2e-5

    type: Literal["full"] = "full"
