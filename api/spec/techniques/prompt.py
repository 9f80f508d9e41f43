from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from api.spec.base_model import ModelKind, ModelLayers, ModelShape
from api.spec.techniques.base import ActivationFactors, TechniqueBase


class Prompt(TechniqueBase):
    """Prompt tuning: trained embeddings before the text (Lester et al. 2021, arXiv:2104.08691).

    They are initialized with the embeddings of random tokens.
    """

    summary: ClassVar[str] = "Train the embeddings of a few tokens before the text."
    default_learning_rate: ClassVar[float] = 3e-2
    peft_type: ClassVar[str | None] = "PROMPT_TUNING"
    packable: ClassVar[bool] = False
    activation_factors: ClassVar[ActivationFactors] = ActivationFactors(0.5, 0.2)
    allocator_overhead: ClassVar[float] = 1.15
    families: ClassVar[Mapping[ModelKind, frozenset[str]]] = {
        "encoder": frozenset({"bert", "deberta-v2", "modernbert", "roberta", "xlm-roberta"})
    }
    """The encoders whose embeddings are as wide as their hidden states."""

    type: Literal["prompt"] = "prompt"
    tokens: Annotated[int, Field(ge=1, le=1024)] = 20
    """|P|: number of trained tokens. Default 20."""

    @property
    def virtual_tokens(self) -> int:
        return self.tokens

    def peft(self, layers: ModelLayers) -> Mapping[str, object]:
        return {"num_virtual_tokens": self.tokens, "prompt_tuning_init": "SAMPLE_VOCAB"}

    def added_parameters(self, shape: ModelShape) -> int:
        return self.tokens * shape.embedding_size
