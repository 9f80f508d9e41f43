from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from api.spec.base_model import ModelKind, ModelLayers, ModelShape
from api.spec.techniques.base import ActivationFactors, TechniqueBase


class Prefix(TechniqueBase):
    """Prefix tuning: trained keys and values before the text, in every layer (Li and Liang 2021, arXiv:2101.00190).

    A language model's prefix begins as the keys and values of the first words of the training text, an encoder's as
    zeros."""

    summary: ClassVar[str] = "Train keys and values that every layer reads before the text."
    default_learning_rate: ClassVar[float] = 1e-2
    peft_type: ClassVar[str | None] = "PREFIX_TUNING"
    begins_from_text: ClassVar[bool] = True
    packable: ClassVar[bool] = False
    recomputes: ClassVar[bool] = False  # transformers drops the cached keys and values when it recomputes
    activation_factors: ClassVar[ActivationFactors] = ActivationFactors(0.5, 0.2)
    allocator_overhead: ClassVar[float] = 1.0
    families: ClassVar[Mapping[ModelKind, frozenset[str]]] = {
        "encoder": frozenset({"bert", "electra", "roberta", "xlm-roberta"})
    }
    """The encoders that accept cached keys and values."""

    type: Literal["prefix"] = "prefix"
    tokens: Annotated[int, Field(ge=1, le=1024)] = 20
    """|P|: length of the prefix, in tokens. Default 20."""

    @property
    def virtual_tokens(self) -> int:
        return self.tokens

    def peft(self, layers: ModelLayers) -> Mapping[str, object]:
        return {"num_virtual_tokens": self.tokens, "prefix_projection": False, "init_weights": "zero"}

    def added_parameters(self, shape: ModelShape) -> int:
        """Count a key and a value for each token and layer."""
        return self.tokens * shape.layers * 2 * shape.key_value_size
