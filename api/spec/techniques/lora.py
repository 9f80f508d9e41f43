import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from api.spec import patterns
from api.spec.base_model import TENSOR_KINDS, LowRankUpdate, Matrix, ModelLayers
from api.spec.target_modules import (
    ALL_LINEAR,
    FIELD,
    NoTargetModules,
    choose,
    is_all_linear,
    listed,
    require_patterns,
)
from api.spec.techniques.base import Names, TechniqueBase

MAX_RANK = 1024
Rank = Annotated[int, Field(ge=1, le=MAX_RANK)]
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that `vllm serve --max-lora-rank` accepts. 16 is its default."""


Pattern = Annotated[str, Field(min_length=1, max_length=512)]
"""A regular expression for api.spec.patterns. Patterns are checked when a job is accepted, not here, because stored
jobs and published models may hold patterns that an earlier release read by Python's rules."""


class Lora(TechniqueBase):
    """Low-rank adaptation: h = W x + (α / r) B A x, with W frozen (Hu et al. 2021, arXiv:2106.09685)."""

    summary: ClassVar[str] = "Train a low-rank update beside frozen weights and publish a small adapter."
    default_learning_rate: ClassVar[float] = 2e-4
    peft_type: ClassVar[str | None] = "LORA"
    merges: ClassVar[bool] = True
    mixes: ClassVar[bool] = True
    explicit_targets: ClassVar[bool] = True
    loads_in_transformers: ClassVar[bool] = True
    plain_update: ClassVar[bool] = True
    """Whether the update is B A alone. peft can add only such an update to tensors of experts."""
    mutable_fields: ClassVar[frozenset[str]] = frozenset({"dropout", "learning_rate_ratio", "init"})

    type: Literal["lora"] = "lora"
    rank: Rank = 16
    """r: the inner dimension of B A."""
    alpha: float = Field(gt=0, le=65536, default_factory=lambda given: 2.0 * given.get("rank", 1))
    """α: the update is scaled by α / r. Default: twice the rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that an input of the update is dropped in training. Default 0."""
    target_modules: Names | Pattern = ALL_LINEAR
    """The layers that get an update: "all-linear" (all linear layers except the output head and routers, and the
    experts of a mixture), a list of names, or a regular expression in RE2's syntax that matches whole names."""
    rank_pattern: Annotated[dict[Pattern, Rank], Field(max_length=256)] = Field(default_factory=dict)
    """r of single layers, by name or by a regular expression (RE2) that matches the end of the name."""
    alpha_pattern: Annotated[dict[Pattern, Annotated[float, Field(gt=0)]], Field(max_length=256)] = Field(
        default_factory=dict
    )
    """α of single layers, with keys as in `rank_pattern`."""
    rslora: bool = False
    """Scale the update by α / √r instead of α / r (Kalajdzievski 2023, arXiv:2312.03732)."""
    init: Literal["default", "gaussian", "pissa", "olora"] = "default"
    """Initialization of A and B. default: A Kaiming-uniform, B zero; gaussian: A normal, B zero; pissa: the principal
    singular directions of W (Meng et al. 2024, arXiv:2404.02948); olora: its QR factors (Büyükakyüz 2024,
    arXiv:2406.01775). The last two are published as a plain adapter of twice the rank. Embeddings always have their
    default initialization (A zero)."""
    learning_rate_ratio: Annotated[float, Field(ge=1, le=1024)] = 1.0
    """λ of LoRA+: the learning rate of B divided by that of A (Hayou et al. 2024, arXiv:2402.12354). Default 1. In an
    embedding, A and B both have the job's learning rate: the paper's argument needs a wide input of A, and an
    embedding's input is one-hot."""

    @model_validator(mode="after")
    def _twice_the_rank(self) -> Self:
        """Refuse a rank whose double exceeds MAX_RANK. The published adapter has twice the rank, and a job that
        continues the adapter must be able to request that."""
        if self.changes_base and 2 * max(self.rank, *self.rank_pattern.values(), 0) > MAX_RANK:
            raise ValueError(
                f"with init {self.init} the rank may be at most {MAX_RANK // 2}, because the adapter is published with "
                "twice the rank"
            )
        return self

    @property
    def changes_base(self) -> bool:
        return self.init in ("pissa", "olora")

    @property
    def names_layers(self) -> bool:
        return not is_all_linear(self.target_modules)

    def as_published(self) -> Self:
        if not self.changes_base:
            return self.model_copy(update={"init": "default"})
        growth = math.sqrt(2) if self.rslora else 2  # so that α / √r, or α / r, does not change
        return self.model_copy(
            update={
                "init": "default",
                "rank": 2 * self.rank,
                "alpha": growth * self.alpha,
                "rank_pattern": {name: 2 * rank for name, rank in self.rank_pattern.items()},
                "alpha_pattern": {name: growth * alpha for name, alpha in self.alpha_pattern.items()},
            }
        )

    def patterns(self) -> Mapping[str, Sequence[str]]:
        targets = self.target_modules
        named = [targets] if isinstance(targets, str) and targets != ALL_LINEAR else []
        given = {"target_modules": named, "rank_pattern": [*self.rank_pattern], "alpha_pattern": [*self.alpha_pattern]}
        return {field: values for field, values in given.items() if values}

    def peft(self, layers: ModelLayers) -> Mapping[str, object]:
        return {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": self.target_modules,
            "rank_pattern": self.rank_pattern,
            "alpha_pattern": self.alpha_pattern,
            "use_rslora": self.rslora,
            "init_lora_weights": True if self.init == "default" else self.init,
        }

    def learning_rate_factors(self) -> Mapping[str, float]:
        return {} if self.learning_rate_ratio == 1.0 else {"lora_B": self.learning_rate_ratio}

    def adapted_layers(self, layers: ModelLayers) -> Sequence[Matrix]:
        require_patterns(self.patterns())
        found = choose(self.target_modules, layers.adaptable, quantized=self.quantizes)
        self._require_plain_update(found, layers.adaptable)
        names = tuple(matrix.name for matrix in found)
        for field in ("rank_pattern", "alpha_pattern"):
            unused = patterns.first_unused(tuple(getattr(self, field)), names)
            if unused is not None:
                param = f"technique.{field}"
                message = f"{param}: '{unused[:200]}' matches none of the adapted layers. {listed(found)}"
                raise NoTargetModules(message, param)
        return found

    def _require_plain_update(self, found: Sequence[Matrix], matrices: Sequence[Matrix]) -> None:
        """Raise NoTargetModules if a tensor of experts would get more than the plain update, which peft does not
        implement."""
        tensor = next((matrix for matrix in found if matrix.kind in TENSOR_KINDS), None)
        if tensor is None:
            return
        obstacles = {
            "technique.type": None if self.plain_update else f"'{self.type}'",
            "technique.dropout": f"a dropout of {self.dropout}" if self.dropout else None,
            "technique.init": f"init '{self.init}'" if self.changes_base else None,
        }
        for param, what in obstacles.items():
            if what is not None:
                names = sorted({matrix.name.rpartition(".")[2] for matrix in matrices if matrix.kind == "linear"})
                raise NoTargetModules(
                    f"{param}: {what} does not work on {tensor.name}, which holds all experts of a layer in one "
                    "tensor. Use technique.type 'lora', technique.dropout 0 and technique.init 'default', or name "
                    f"other layers in {FIELD}: "
                    f"{', '.join(names)}.",
                    param,
                )

    def default_layers(self, layers: ModelLayers) -> Sequence[Matrix] | None:
        return choose(ALL_LINEAR, layers.adaptable, quantized=self.quantizes)

    def low_rank_updates(self, layers: ModelLayers) -> Sequence[LowRankUpdate]:
        found = self.adapted_layers(layers)
        own = patterns.first_match(tuple(self.rank_pattern), tuple(matrix.name for matrix in found))
        ranks = {name: self.rank_pattern[pattern] for name, pattern in own.items()}
        return [LowRankUpdate(matrix, ranks.get(matrix.name, self.rank)) for matrix in found]

    def vllm_refusal(self) -> str | None:
        published = self.as_published()
        if published.rank_pattern or published.alpha_pattern:
            return (
                "**Do not serve this adapter with vLLM**: it ignores `rank_pattern` and `alpha_pattern`, and would "
                "scale those layers wrongly without a warning."
            )
        if published.rank > VLLM_RANKS[-1]:
            return f"vLLM supports ranks up to {VLLM_RANKS[-1]}, and this adapter has rank {published.rank}."
        return None

    def vllm_flags(self) -> Sequence[str]:
        rank = next(legal for legal in VLLM_RANKS if legal >= self.as_published().rank)
        return () if rank == 16 else ("--max-lora-rank", str(rank))
