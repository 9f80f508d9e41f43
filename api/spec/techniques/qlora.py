from typing import ClassVar, Literal

from pydantic import AliasChoices, Field

from api.spec.techniques.base import FourBits
from api.spec.techniques.lora import Lora


class Qlora(Lora):
    """LoRA on a base model whose linear weights are stored in four bits (Dettmers et al. 2023, arXiv:2305.14314)."""

    summary: ClassVar[str] = "Train LoRA on a base model that is quantized to four bits, in a quarter of the memory."
    quantizes: ClassVar[bool] = True

    type: Literal["qlora"] = "qlora"  # type: ignore[assignment]
    quantization: Literal["nf4", "fp4"] = Field("nf4", validation_alias=AliasChoices("quantization", "quantisation"))
    """Four-bit type. nf4: the quantiles of a normal distribution; fp4: a floating-point number."""
    double_quantization: bool = Field(True, validation_alias=AliasChoices("double_quantization", "double_quantisation"))
    """Quantize the scales of the blocks, too, which saves 0.37 bits per weight."""
    init: Literal["default", "gaussian"] = "default"
    """Initialization of A and B. Initializations that change W are not possible with W in four bits."""

    @property
    def four_bits(self) -> FourBits:
        return FourBits(self.quantization, self.double_quantization)
