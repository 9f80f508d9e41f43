from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from api.spec.base_model import Matrix, ModelLayers, ModelShape
from api.spec.target_modules import ALL_LINEAR, choose
from api.spec.techniques.base import TechniqueBase


class Loha(TechniqueBase):
    """LoHa: h = W x + (α / r) (B₁ A₁ ∘ B₂ A₂) x, with W frozen (Hyeon-Woo et al. 2021, arXiv:2108.06098)."""

    summary: ClassVar[str] = "Train an elementwise product of two low-rank updates."
    default_learning_rate: ClassVar[float] = 1e-3
    peft_type: ClassVar[str | None] = "LOHA"

    type: Literal["loha"] = "loha"
    rank: Annotated[int, Field(ge=1, le=64)] = 4
    """r"""

    def peft(self, layers: ModelLayers) -> Mapping[str, Any]:
        return {"r": self.rank, "alpha": self.rank, "target_modules": ALL_LINEAR}

    def adapted_layers(self, layers: ModelLayers) -> Sequence[Matrix]:
        return choose(ALL_LINEAR, layers.adaptable)

    def added_parameters(self, shape: ModelShape) -> int:
        return sum(2 * self.rank * (matrix.inputs + matrix.outputs) for matrix in self.adapted_layers(shape))
