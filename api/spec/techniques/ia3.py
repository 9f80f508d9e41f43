from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from api.spec.techniques.base import Names, TechniqueBase


class Ia3(TechniqueBase):
    """(IA)³: keys, values and the inner activations of the feed-forward part are scaled by learnt vectors l_k, l_v and
    l_ff (Liu et al. 2022, arXiv:2205.05638)."""

    summary: ClassVar[str] = "Train vectors that scale keys, values and inner activations: very few weights."
    default_learning_rate: ClassVar[float] = 3e-3
    peft_type: ClassVar[str | None] = "IA3"
    scales: ClassVar[tuple[str, ...]] = ("ia3_l",)

    type: Literal["ia3"] = "ia3"
    target_modules: Names | None = None
    """Layers that are scaled, by their names in the model. Null: the family's keys, values and feed-forward output."""
    feedforward_modules: Names | None = None
    """Those of them whose input is scaled and not their output. Null: the family's feed-forward output."""

    def peft(self) -> Mapping[str, Any]:
        return {"target_modules": self.target_modules, "feedforward_modules": self.feedforward_modules}
