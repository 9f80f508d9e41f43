"""What every technique says of itself, without torch."""

from typing import ClassVar

from api.fields import Strict


class TechniqueBase(Strict):
    """A technique decides which weights are trained, and what is published."""

    summary: ClassVar[str]
    default_learning_rate: ClassVar[float]
    """Peak learning rate when the job leaves it to us; multiplied by `learning_rate_multiplier`."""
