from collections.abc import Mapping
from typing import ClassVar, Literal

from api.spec.base_model import ModelLayers, ModelShape
from api.spec.techniques.base import ActivationFactors
from api.spec.techniques.lora import Lora


class Dora(Lora):
    """LoRA on the direction of each weight, while its magnitude m is trained separately:
    W' = m (W + (α / r) B A) / ‖W + (α / r) B A‖ by rows (Liu et al. 2024, arXiv:2402.09353)."""

    summary: ClassVar[str] = "Train LoRA on the direction of each weight, and its magnitude separately."
    plain_update: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    activation_factors: ClassVar[ActivationFactors] = ActivationFactors(0.5, 1.95)
    allocator_overhead: ClassVar[float] = 1.27
    flops_per_pass: ClassVar[float] = 150.0  # computing the norms of the rows (docs/engine-log.md)

    type: Literal["dora"] = "dora"  # type: ignore[assignment]

    def peft(self, layers: ModelLayers) -> Mapping[str, object]:
        return {**super().peft(layers), "use_dora": True}

    def added_parameters(self, shape: ModelShape) -> int:
        """Count the updates, and a magnitude for each output."""
        updates = self.low_rank_updates(shape)
        return sum(update.parameters + update.matrix.outputs for update in updates)

    def vllm_refusal(self) -> str | None:
        return "vLLM refuses DoRA adapters."
