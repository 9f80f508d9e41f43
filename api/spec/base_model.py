"""Facts about base models: their kind, their sizes, and the shapes of their layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

ModelKind = Literal["causal_lm", "encoder"]
"""causal_lm: the model predicts the next token. encoder: the model reads a whole text at once, as BERT does."""

HEAD_MODULES = frozenset({"classifier", "head", "pooler", "pre_classifier", "score"})
"""Modules that a classifier has on top of the base model, by the first part of their names. Every technique trains all
weights of these modules and publishes them."""
EXPERT_KINDS = frozenset({"experts", "shared", "router", "apart"})
"""Values of `Matrix.kind` for matrices that belong to a mixture of experts."""
TENSOR_KINDS = frozenset({"experts", "shared", "router"})
"""Values of `Matrix.kind` for matrices that peft adapts as tensors (its option `target_parameters`) instead of as
layers."""


Layer = list[Any]
"""A value of `Shapes.layers`: [kind, inputs, outputs, count] and, for experts, also [experts, active]. `Matrix`
describes these fields. The key in `Shapes.layers` is the layer's name. A name with {} stands for `count` layers; the
numbers from 0 replace the {}."""


class ClassifierShape(TypedDict):
    """Numbers of weights of the model with a head for labels."""

    parameters: int
    """Number of weights of the model with a head for two labels."""
    per_label: int
    """Number of weights that each further label adds."""
    outside: int
    """Number of weights that a classifier with two labels adds to the base model: those of its head and of the extra
    layers in front of it."""


class Shapes(TypedDict):
    """Shapes of a base model's layers, which determine the trained weights and the memory of a training."""

    layers: dict[str, Layer]
    parameters: int | None
    """Number of weights of the causal language model; None for an encoder."""
    classifier: ClassifierShape | None
    width: int
    """Width of a token's embedding, and of the tokens that prompt tuning trains."""
    key_values: int
    """Width of a token's keys (or values) in one layer."""
    ia3: dict[str, list[str]] | None
    """Names of the layers that (IA)³ scales by default: `targets` has all of them, `feedforward` those whose input is
    scaled instead of the output. None: peft has no default layers for the family."""
    bottlenecks: dict[str, int] | None
    """Number of bottleneck adapters in a layer, by placement. None: Attune does not know where to place adapters in
    this family."""


class BaseModelFacts(TypedDict):
    """The facts of a base model, stored in its attune.json and its row.

    Older releases did not write the optional fields.
    """

    kind: NotRequired[ModelKind]
    """Kind of the base model. Default: causal_lm."""
    classifies: NotRequired[bool]
    """Whether transformers has a classifier, a class with a head for labels, for this family. Default: true."""
    recomputes: NotRequired[bool]
    """Whether transformers' class can recompute activations in the backward pass. Default: true."""
    keeps_scores: NotRequired[bool]
    """Whether transformers' class lacks fused attention. Training then keeps T² attention scores for each head and
    layer, for rows of T tokens. Default: false."""
    model_type: str
    architectures: list[str]
    parameters: int
    context_window: int
    """Maximum number of tokens that the model reads at once."""
    hidden_size: int
    layers: int
    heads: int
    vocab_size: int
    dtype: str
    """Data type of the stored weights."""
    source: str
    """Origin of the base model: its hub id, or the name of the folder or file."""
    revision: str | None
    """Commit of the hub's repository; null for other sources."""
    license: str | None
    chat_template: bool
    """Whether the tokenizer has a chat template."""
    tools: NotRequired[bool]
    """Whether chats may offer tools: the chat template has a place for them, and writes calls in a form that is known.
    Not set: unknown until a sampler has loaded the model."""
    end_tokens: NotRequired[list[int]]
    """Tokens that end an answer, for servers that take them with a request. Not set: they use their own."""
    dequantised_from: str | None
    """Quantization of the GGUF file that the weights come from, such as Q4_1; null for other sources."""
    shapes: NotRequired[Shapes]


@dataclass(frozen=True)
class Matrix:
    """A weight matrix that a technique may adapt."""

    name: str
    kind: str
    """One of: linear; embedding; head (the output head); tied (an output head that shares its weights with the input
    embeddings); experts (all experts of a layer in one tensor); shared (a linear layer beside the experts, which peft
    mistakes for an expert because of its name); router (the layer that chooses a token's experts); apart (experts that
    peft cannot adapt)."""
    inputs: int
    outputs: int
    experts: int = 1
    active: int = 1
    """Number of experts that compute one token."""

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.inputs * self.outputs * self.experts

    @property
    def active_size(self) -> int:
        """Number of weights that take part in computing one token: all of them, or only those of the active experts."""
        return self.inputs * self.outputs * self.active


@dataclass(frozen=True)
class ModelLayers:
    """The layers of a base model, from which a technique chooses those that it adapts."""

    matrices: Sequence[Matrix]
    scores: bool
    """Whether the model has a head for labels or rewards instead of the head for tokens."""
    ia3: Mapping[str, list[str]] | None = None
    """Names of the layers that (IA)³ scales by default in this family: `targets` has all of them, `feedforward` those
    whose input is scaled instead of the output. None: peft has no default layers for the family."""

    @property
    def adaptable(self) -> list[Matrix]:
        """All matrices that a technique may adapt. If the model has a head for labels or rewards, both this head and
        the token head that it replaces are left out."""
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
    """Number of bottleneck adapters in a layer, by placement. None: Attune does not know where to place adapters in
    this family."""


@dataclass(frozen=True)
class LowRankUpdate:
    """An update of a frozen matrix: the product of two trained matrices with the inner dimension `rank`."""

    matrix: Matrix
    rank: int

    @property
    def parameters(self) -> int:
        return self.rank * (self.matrix.inputs + self.matrix.outputs) * self.matrix.experts
