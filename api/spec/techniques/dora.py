from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from api.spec.techniques.lora import Lora


class Dora(Lora):
    """LoRA on the direction of each weight, its magnitude m learnt apart: W' = m (W + (α / r) B A) / ‖W + (α / r) B A‖
    by rows (Liu et al. 2024, arXiv:2402.09353)."""

    summary: ClassVar[str] = "LoRA with the magnitude of each weight learnt apart from its direction."

    type: Literal["dora"] = "dora"  # type: ignore[assignment]

    def peft(self) -> Mapping[str, Any]:
        return {**super().peft(), "use_dora": True}
