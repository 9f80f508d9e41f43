from typing import Annotated, ClassVar, Literal

from pydantic import Field

from api.spec.techniques.base import TechniqueBase


class Bottleneck(TechniqueBase):
    """Adapter layers: h ← h + W_up f(W_down h), small, inside every layer of a frozen model. Houlsby et al. 2019
    (arXiv:1902.00751) put one after attention and one after the feed-forward part, Pfeiffer et al. 2020
    (arXiv:2005.00247) only the latter."""

    summary: ClassVar[str] = "Train small layers between those of the frozen model."
    default_learning_rate: ClassVar[float] = 1e-3

    type: Literal["bottleneck"] = "bottleneck"
    placement: Literal["houlsby", "pfeiffer"] = "pfeiffer"
    reduction_factor: Annotated[float, Field(gt=0, le=1024)] = 16
    """Hidden size divided by the bottleneck's."""
    non_linearity: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """f"""
