"""What every technique says of itself, without torch."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from api.spec.fields import StrictModel

Names = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]

ALL_LINEAR: Literal["all-linear"] = "all-linear"


class TechniqueBase(StrictModel):
    """A technique decides which weights are trained, and what is published."""

    summary: ClassVar[str]
    default_learning_rate: ClassVar[float]
    """Peak learning rate when the job leaves it to us; multiplied by `learning_rate_multiplier`."""
    peft_type: ClassVar[str | None] = None
    """peft's name of it, where peft does the work."""
    packable: ClassVar[bool] = True
    """Several examples in one row of tokens give what they give alone."""
    virtual_tokens: ClassVar[bool] = False
    """It puts learnt tokens before the text."""
    recomputes: ClassVar[bool] = True
    """Its activations may be recomputed in the backward pass."""
    merges: ClassVar[bool] = False
    """What it trains can be added into the base's own weights."""
    quantises: ClassVar[bool] = False
    """The frozen base is kept in fewer bits."""
    mutable_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that may differ when a job continues another's model: they decide nothing of its shape."""

    scales: ClassVar[tuple[str, ...]] = ()
    """Parts of the names of weights that multiply what the base computes: at 1 they change nothing, and they decay to
    it."""

    def as_published(self) -> Self:
        """The technique of the files that it publishes, which whoever continues from them has to name."""
        return self

    def peft(self) -> Mapping[str, Any]:
        """Arguments of peft's configuration of that type."""
        return {}

    def patterns(self) -> Mapping[str, Sequence[str]]:
        """Fields that hold patterns of layers' names (api.spec.patterns), and those patterns."""
        return {}

    def learning_rate_factors(self) -> Mapping[str, float]:
        """A part of a weight's name → what its learning rate is multiplied by."""
        return {}
