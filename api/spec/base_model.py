"""What techniques and methods know of a base model: its kind, its layers and their shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

ModelKind = Literal["causal_lm", "encoder"]
"""causal_lm: predicts the next token. encoder: reads a text whole, as BERT does."""

HEAD_MODULES = frozenset({"classifier", "head", "pooler", "pre_classifier", "score"})
"""First names of the modules that classifiers have on top of the base model. They are trained and published whole, by
any technique."""
EXPERT_KINDS = frozenset({"experts", "shared", "router", "apart"})
"""Kinds of matrices that belong to a mixture of experts."""
TENSOR_KINDS = frozenset({"experts", "shared", "router"})
"""Kinds whose weights peft adapts as tensors (`target_parameters`) instead of as layers."""


@dataclass(frozen=True)
class Matrix:
    """A weight matrix that a technique may adapt."""

    name: str
    kind: str
    """linear; embedding; head, or tied: a head that shares its weights with the input embeddings; experts: the experts
    of a layer in one tensor; shared: a linear layer beside experts that peft takes for one of them by its name; router:
    the layer that chooses a token's experts; apart: experts that peft cannot adapt."""
    inputs: int
    outputs: int
    experts: int = 1
    active: int = 1
    """Experts that compute one token."""

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.inputs * self.outputs * self.experts

    @property
    def active_size(self) -> int:
        """Number of weights that compute one token."""
        return self.inputs * self.outputs * self.active


@dataclass(frozen=True)
class ModelLayers:
    """The layers of a base model, from which a technique chooses those that it adapts."""

    matrices: Sequence[Matrix]
    scores: bool
    """The model has a head for labels or rewards instead of the one for tokens."""
    ia3: Mapping[str, list[str]] | None = None
    """Names of the layers that (IA)³ scales by default in this family: `targets`, and of those the `feedforward` ones.
    None: peft knows none for the family."""

    @property
    def adaptable(self) -> list[Matrix]:
        """The matrices without the head for labels, and without the head for tokens that it replaces."""
        if not self.scores:
            return list(self.matrices)
        body = (matrix for matrix in self.matrices if matrix.kind not in ("head", "tied"))
        return [matrix for matrix in body if matrix.name.partition(".")[0] not in HEAD_MODULES]


@dataclass(frozen=True)
class ModelShape(ModelLayers):
    """The layers of a base model and its sizes, from which a technique counts the weights that it adds."""

    layers: int = 0
    """Number of transformer layers."""
    hidden_size: int = 0
    embedding_size: int = 0
    """Width of a token's embedding."""
    key_value_size: int = 0
    """Width of a token's keys (or values) in one layer."""
    bottlenecks: Mapping[str, int] | None = None
    """Bottleneck adapters in a layer, by placement. None: the family has no places for them."""


@dataclass(frozen=True)
class LowRankUpdate:
    """A product of two matrices of this rank beside a frozen matrix."""

    matrix: Matrix
    rank: int

    @property
    def parameters(self) -> int:
        return self.rank * (self.matrix.inputs + self.matrix.outputs) * self.matrix.experts
