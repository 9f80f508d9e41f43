from typing import ClassVar, Literal

from api.spec.techniques.base import ActivationFactors, TechniqueBase


class Full(TechniqueBase):
    """Every weight of the base model is trained, and a whole model is published."""

    summary: ClassVar[str] = "Train every weight of the base model and publish a whole model."
    default_learning_rate: ClassVar[float] = 2e-5
    whole_model: ClassVar[bool] = True
    activation_factors: ClassVar[ActivationFactors] = ActivationFactors(0.45, 0.2)
    allocator_overhead: ClassVar[float] = 1.4

    type: Literal["full"] = "full"

    def vllm_refusal(self) -> str | None:
        return None
