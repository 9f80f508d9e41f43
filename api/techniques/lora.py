import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from api.techniques.base import ALL_LINEAR, Names, TechniqueBase

Rank = Annotated[int, Field(ge=1, le=1024)]


def _compiles(pattern: str) -> str:
    if pattern != ALL_LINEAR:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
    return pattern


class Lora(TechniqueBase):
    """Low-rank adaptation: h = W x + (α / r) B A x, with W frozen (Hu et al. 2021, arXiv:2106.09685)."""

    summary: ClassVar[str] = "Train a low-rank update beside frozen weights and publish a small adapter."
    default_learning_rate: ClassVar[float] = 2e-4
    peft_type: ClassVar[str | None] = "LORA"
    merges: ClassVar[bool] = True
    changeable: ClassVar[frozenset[str]] = frozenset({"dropout", "learning_rate_ratio", "init"})

    type: Literal["lora"] = "lora"
    rank: Rank = 16
    """r: the inner dimension of B A."""
    alpha: float = Field(gt=0, le=65536, default_factory=lambda given: 2.0 * given.get("rank", 1))
    """α; the update is scaled by α / r. Default: twice the rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability with which an input of the update is dropped while training."""
    target_modules: Names | Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_compiles)] = ALL_LINEAR
    """Which linear layers get an update: "all-linear" (every one but the output head), names as in the model, or a
    regular expression that matches their whole names."""
    rank_pattern: Annotated[dict[str, Rank], Field(max_length=256)] = Field(default_factory=dict)
    """Ranks of single layers: a name, or a regular expression of its end, to r."""
    alpha_pattern: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(max_length=256)] = Field(
        default_factory=dict
    )
    """α of single layers, alike."""
    rslora: bool = False
    """Scale by α / √r instead (Kalajdzievski 2023, arXiv:2312.03732)."""
    init: Literal["default", "gaussian", "pissa", "olora"] = "default"
    """How A and B begin. default: A Kaiming-uniform, B zero; gaussian: A normal, B zero; pissa: the principal singular
    directions of W (Meng et al. 2024, arXiv:2404.02948); olora: its QR factors (Büyükakyüz 2024, arXiv:2406.01775).
    The last two are published as a plain adapter of twice the rank."""
    learning_rate_ratio: Annotated[float, Field(ge=1, le=1024)] = 1.0
    """λ of LoRA+: B learns so many times faster than A (Hayou et al. 2024, arXiv:2402.12354)."""

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
