"""The base class of all techniques. Whatever differs between techniques is an attribute or a method of this class, with
a default. Torch-free.

The rest of the program uses only these attributes and methods, never a technique's name or class. A new technique is
therefore a file that sets what differs from the defaults.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, NamedTuple, Self

from pydantic import Field

from api.spec.base_model import LowRankUpdate, Matrix, ModelKind, ModelLayers, ModelShape
from api.spec.fields import StrictModel

Names = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class ActivationFactors(NamedTuple):
    """How many numbers are kept for the backward pass, for each token and each input and output of a matrix."""

    computation: float
    """Numbers in the computation's type: bfloat16 or float32."""
    float32: float
    """Numbers in float32, the type that adapters compute in."""


class FourBits(NamedTuple):
    """How the frozen weights are quantized."""

    type: str
    """Data type of the quantized weights: nf4 or fp4."""
    double: bool
    """Whether the scales of the blocks are quantized, too."""


class TechniqueBase(StrictModel):
    """A technique decides which weights are trained, and what is published."""

    summary: ClassVar[str]
    """One sentence for the catalogue."""
    default_learning_rate: ClassVar[float]
    """Peak learning rate if the job gives none. It is multiplied by `learning_rate_multiplier`."""

    # The trained and the published weights.
    whole_model: ClassVar[bool] = False
    """Whether all weights of the base model are trained and a whole model is published. Otherwise an adapter is
    published."""
    peft_type: ClassVar[str | None] = None
    """peft's name for the technique. None: peft does not implement the technique. It then has its own module in
    worker/techniques, unless it trains the whole model."""
    begins_from_text: ClassVar[bool] = False
    """Whether the trained keys and values are initialized with those of the first tokens of the training text."""
    scales: ClassVar[tuple[str, ...]] = ()
    """Parts of the names of trained weights that scale activations of the base model. A scale of 1 changes nothing, so
    weight decay pulls these weights towards 1."""
    mutable_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that may differ when a job continues another job's adapter, because they do not affect the shapes of the
    adapter's weights."""
    merges: ClassVar[bool] = False
    """Whether the adapter can be added to the base model's own weights."""
    quantizes: ClassVar[bool] = False
    """Whether the frozen base model is stored in four bits, in the format that `four_bits` returns."""

    # Requirements on the base model and the training.
    families: ClassVar[Mapping[ModelKind, frozenset[str]]] = {}
    """Families of base models (`model_type`) to which the technique is limited, by kind of base model. A kind that is
    not a key has no limit."""
    packable: ClassVar[bool] = True
    """Whether several examples can share one row of tokens and have the same losses as alone."""
    mixes: ClassVar[bool] = False
    """Whether peft computes rows of several adapters of this technique in one batch."""
    recomputes: ClassVar[bool] = True
    """Whether activations may be recomputed in the backward pass (gradient checkpointing)."""
    explicit_targets: ClassVar[bool] = False
    """Whether the trainer passes the names of `adapted_layers` to peft instead of the job's own patterns, which peft
    would match without a limit on time."""

    # Factors of the estimate, fitted to measurements (docs/benchmarks.md). The defaults are LoRA's, higher than most.
    activation_factors: ClassVar[ActivationFactors] = ActivationFactors(0.5, 0.39)
    allocator_overhead: ClassVar[float] = 2.15
    """On a CPU: bytes that the C library's heap holds for each byte of activations. More than one, because the heap
    keeps the gaps between its blocks."""
    flops_per_pass: ClassVar[float] = 0.0
    """Operations for each weight of the base model's linear layers and each pass through them, whatever the number of
    tokens in a micro-batch. They mostly stand for the time of memory traffic."""

    # Loading of the published adapter by other programs.
    loads_in_transformers: ClassVar[bool] = False
    """Whether transformers' own `load_adapter` can load the adapter."""

    type: str

    @property
    def virtual_tokens(self) -> int:
        """Number of trained tokens before the text."""
        return 0

    @property
    def four_bits(self) -> FourBits | None:
        """The quantization of the frozen weights; None if they are not quantized."""
        return None

    @property
    def changes_base(self) -> bool:
        """Whether the initialization subtracts something from the frozen weights.

        The published adapter is then converted to one for the original weights.
        """
        return False

    @property
    def names_layers(self) -> bool:
        """Whether the job names the layers to adapt, instead of leaving the choice to the technique."""
        return False

    def as_published(self) -> Self:
        """Return the technique of the published adapter. A job that continues the adapter has to request this
        technique."""
        return self

    def peft(self, layers: ModelLayers) -> Mapping[str, object]:
        """Return the arguments of peft's configuration class for this base model."""
        return {}

    def patterns(self) -> Mapping[str, Sequence[str]]:
        """Return {field: patterns} for the fields that hold patterns of layer names (api.spec.patterns)."""
        return {}

    def learning_rate_factors(self) -> Mapping[str, float]:
        """Return {part of a weight's name: factor of the learning rate of all weights with this part in their
        names}."""
        return {}

    def adapted_layers(self, layers: ModelLayers) -> Sequence[Matrix]:
        """Return the matrices that the technique adapts.

        Raise NoTargetModules if the job names layers that the base model lacks, or if no layer can be adapted.
        """
        return ()

    def default_layers(self, layers: ModelLayers) -> Sequence[Matrix] | None:
        """Return the matrices that the technique adapts if the job names none; None if the technique does not choose
        layers."""
        return None

    def low_rank_updates(self, layers: ModelLayers) -> Sequence[LowRankUpdate]:
        """Return the low-rank updates that the technique trains beside matrices. Raise NoTargetModules as
        `adapted_layers` does."""
        return ()

    def added_parameters(self, shape: ModelShape) -> int:
        """Return the number of weights that the technique adds to the base model and trains, without heads.

        The default counts low-rank updates. Raise NoTargetModules if there are no layers to adapt.
        """
        return sum(update.parameters for update in self.low_rank_updates(shape))

    def vllm_refusal(self) -> str | None:
        """Return why vLLM does not serve the adapter, as a sentence in Markdown; None if vLLM serves it."""
        return f"vLLM serves LoRA adapters only, not those of `{self.type}`."

    def vllm_flags(self) -> Sequence[str]:
        """Return the flags of `vllm serve` that this adapter needs."""
        return ()
