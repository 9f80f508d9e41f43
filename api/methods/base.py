"""What every method says of itself, without torch."""

from typing import Annotated, ClassVar

from pydantic import Field

from api.fields import AUTO, AutoOrNull, Strict


class Hyperparameters(Strict):
    """OpenAI's three, for every method."""

    n_epochs: AutoOrNull[Annotated[int, Field(ge=1, le=50)]] = AUTO
    """Passes over the training rows."""
    batch_size: AutoOrNull[Annotated[int, Field(ge=1, le=256)]] = AUTO
    """Examples per optimizer step, whatever the micro-batching."""
    learning_rate_multiplier: AutoOrNull[Annotated[float, Field(gt=0)]] = AUTO
    """Scales the technique's default learning rate."""


class MethodBase(Strict):
    """A method decides what is optimised, and which formats of rows it can learn from."""

    summary: ClassVar[str]
    formats: ClassVar[frozenset[str]]
    """Names from api.formats."""
