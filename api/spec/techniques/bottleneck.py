from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from api.spec.base_model import ModelKind, ModelShape
from api.spec.target_modules import NoTargetModules
from api.spec.techniques.base import ActivationFactors, TechniqueBase


class Bottleneck(TechniqueBase):
    """Adapter layers: small layers h ← h + W_up f(W_down h) inside every layer of a frozen model. Houlsby et al. 2019
    (arXiv:1902.00751) put one after attention and one after the feed-forward part, Pfeiffer et al. 2020
    (arXiv:2005.00247) put only one, after the feed-forward part."""

    summary: ClassVar[str] = "Train small layers between those of the frozen model."
    default_learning_rate: ClassVar[float] = 1e-3
    activation_factors: ClassVar[ActivationFactors] = ActivationFactors(0.4, 0.1)
    allocator_overhead: ClassVar[float] = 1.55
    families: ClassVar[Mapping[ModelKind, frozenset[str]]] = {
        "encoder": frozenset({"bert", "deberta-v2", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta"}),
        "causal_lm": frozenset({"gemma2", "gemma3_text", "gpt2", "llama", "mistral", "phi", "phi3", "qwen2", "qwen3"}),
    }
    """The families for which Attune knows where to place adapters (worker/techniques/bottleneck_families.py)."""

    type: Literal["bottleneck"] = "bottleneck"
    placement: Literal["houlsby", "pfeiffer"] = "pfeiffer"
    """Position of the adapters in a layer. houlsby: after attention and after the feed-forward part; pfeiffer: only
    after the feed-forward part."""
    reduction_factor: Annotated[float, Field(gt=0, le=1024)] = 16
    """Hidden size divided by the size of the bottleneck. Default 16."""
    non_linearity: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """The activation function f."""

    def added_parameters(self, shape: ModelShape) -> int:
        """Count two matrices and two biases for each adapter."""
        if shape.bottlenecks is None:
            raise NoTargetModules("technique: bottleneck adapters are not supported for models of this family")
        inner = self.bottleneck_size(shape.hidden_size)
        each = 2 * shape.hidden_size * inner + inner + shape.hidden_size
        return shape.layers * shape.bottlenecks[self.placement] * each

    def bottleneck_size(self, hidden_size: int) -> int:
        """Return the number of units in a bottleneck."""
        return max(1, int(hidden_size // self.reduction_factor))
