import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from api.spec.techniques.base import ALL_LINEAR, Names, TechniqueBase

MAX_RANK = 1024
Rank = Annotated[int, Field(ge=1, le=MAX_RANK)]
CHANGES_THE_BASE = ("pissa", "olora")
"""Initialisations that take something out of the frozen weights."""


Pattern = Annotated[str, Field(min_length=1, max_length=512)]
"""Read by api.spec.patterns only. Checked where a job is accepted, not here: stored jobs and published models may hold
patterns that an earlier release read by Python's rules."""


class Lora(TechniqueBase):
    """Low-rank adaptation: h = W x + (α / r) B A x, with W frozen (Hu et al. 2021, arXiv:2106.09685)."""

    summary: ClassVar[str] = "Train a low-rank update beside frozen weights and publish a small adapter."
    default_learning_rate: ClassVar[float] = 2e-4
    peft_type: ClassVar[str | None] = "LORA"
    merges: ClassVar[bool] = True
    mutable_fields: ClassVar[frozenset[str]] = frozenset({"dropout", "learning_rate_ratio", "init"})

    type: Literal["lora"] = "lora"
    rank: Rank = 16
    """r: the inner dimension of B A."""
    alpha: float = Field(gt=0, le=65536, default_factory=lambda given: 2.0 * given.get("rank", 1))
    """α; the update is scaled by α / r. Default: twice the rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability with which an input of the update is dropped while training."""
    target_modules: Names | Pattern = ALL_LINEAR
    """Which linear layers get an update: "all-linear" (every one but the output head and routers, and a mixture's
    experts), names as in the model, or a regular expression in RE2's syntax that matches their whole names."""
    rank_pattern: Annotated[dict[Pattern, Rank], Field(max_length=256)] = Field(default_factory=dict)
    """Ranks of single layers: a name, or a regular expression (RE2) of its end, to r."""
    alpha_pattern: Annotated[dict[Pattern, Annotated[float, Field(gt=0)]], Field(max_length=256)] = Field(
        default_factory=dict
    )
    """α of single layers, alike."""
    rslora: bool = False
    """Scale by α / √r instead (Kalajdzievski 2023, arXiv:2312.03732)."""
    init: Literal["default", "gaussian", "pissa", "olora"] = "default"
    """How A and B begin. default: A Kaiming-uniform, B zero; gaussian: A normal, B zero; pissa: the principal singular
    directions of W (Meng et al. 2024, arXiv:2404.02948); olora: its QR factors (Büyükakyüz 2024, arXiv:2406.01775).
    The last two are published as a plain adapter of twice the rank; embeddings begin as by default (A zero)."""
    learning_rate_ratio: Annotated[float, Field(ge=1, le=1024)] = 1.0
    """λ of LoRA+: B learns so many times faster than A (Hayou et al. 2024, arXiv:2402.12354). In an
    embedding, whose B is random at first and whose A is zero, both learn at the job's rate: its argument, from the
    width of what A reads, says nothing of one-hot inputs."""

    @model_validator(mode="after")
    def _twice_the_rank(self) -> Self:
        """What these two publish can be continued as any other adapter."""
        if self.init in CHANGES_THE_BASE and 2 * max(self.rank, *self.rank_pattern.values(), 0) > MAX_RANK:
            raise ValueError(f"with init {self.init} the rank may be {MAX_RANK // 2} at most: it is published doubled")
        return self

    def as_published(self) -> Self:
        if self.init not in CHANGES_THE_BASE:
            return self.model_copy(update={"init": "default"})
        growth = math.sqrt(2) if self.rslora else 2  # α / √r, or α / r, stays
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
        found = {"target_modules": named, "rank_pattern": [*self.rank_pattern], "alpha_pattern": [*self.alpha_pattern]}
        return {field: given for field, given in found.items() if given}

    def peft(self) -> Mapping[str, Any]:
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
