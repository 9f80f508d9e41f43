from typing import ClassVar, Literal

from pydantic import AliasChoices, Field

from api.spec.techniques.base import FourBits
from api.spec.techniques.lora import Lora


class Qlora(Lora):
    """LoRA beside a base whose linear weights are kept in four bits (Dettmers et al. 2023, arXiv:2305.14314)."""

    summary: ClassVar[str] = "LoRA on a base that is quantised to four bits, for a quarter of the memory."
    quantizes: ClassVar[bool] = True

    type: Literal["qlora"] = "qlora"  # type: ignore[assignment]
    quantization: Literal["nf4", "fp4"] = Field("nf4", validation_alias=AliasChoices("quantization", "quantisation"))
    """Four-bit type: the quantiles of a normal distribution, or a small floating-point number."""
    double_quantization: bool = Field(True, validation_alias=AliasChoices("double_quantization", "double_quantisation"))
    """Quantise the scales of the blocks as well: 0.37 bits fewer per weight."""
    init: Literal["default", "gaussian"] = "default"
    """How A and B begin; those that change W do not go with a W in four bits."""

    @property
    def four_bits(self) -> FourBits:
        return FourBits(self.quantization, self.double_quantization)
