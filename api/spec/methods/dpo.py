from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AliasChoices, Field

from api.spec.fields import AUTO, AutoOrNull, OrNull
from api.spec.methods.base import Hyperparameters, MethodBase, NotNegative, Options, Smoothing

DEFAULT_BETA = 0.1


class DpoHyperparameters(Hyperparameters):
    beta: AutoOrNull[Annotated[float, Field(gt=0, le=2)]] = AUTO
    """β: strength of the pull towards the reference. "auto": 0.1. For IPO, β is the paper's τ."""

    auto_defaults: ClassVar[Mapping[str, float]] = {**Hyperparameters.auto_defaults, "beta": DEFAULT_BETA}


class DpoOptions(Options):
    hyperparameters: OrNull[DpoHyperparameters] = Field(default_factory=DpoHyperparameters)
    loss: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    """The loss, with the margin m = log π(y_w)/π_ref(y_w) - log π(y_l)/π_ref(y_l). sigmoid, the paper's: -log σ(β m).
    ipo: (m - 1/(2τ))², with log-ratios averaged over the tokens (Azar et al. 2023, arXiv:2310.12036). hinge: max(0, 1 -
    β m) (Zhao et al. 2023, arXiv:2305.10425)."""
    label_smoothing: Smoothing = 0.0
    """ε: probability that a preference is wrong (Mitchell 2023, conservative DPO). Loss "sigmoid" only. Default 0."""
    length_normalized: bool = Field(False, validation_alias=AliasChoices("length_normalized", "length_normalised"))
    """Average log-ratios over the tokens of an answer instead of summing them. IPO always averages."""
    rpo_alpha: NotNegative = 0.0
    """α: weight of an additional loss, the negative log-likelihood per token of the preferred answer (Pang et al. 2024,
    arXiv:2404.19733)."""

    @property
    def beta(self) -> float:
        beta = self.hyperparameters.beta
        return DEFAULT_BETA if beta == AUTO else beta


class Dpo(MethodBase):
    """Direct preference optimization: prefer y_w to y_l, measured against the policy at step 0 (Rafailov et al. 2023,
    arXiv:2305.18290)."""

    summary: ClassVar[str] = "Prefer one answer to another, without a reward model."
    formats: ClassVar[frozenset[str]] = frozenset({"preference"})
    learning_rate_factor: ClassVar[float] = 0.25
    full_learning_rate: ClassVar[float | None] = 1e-6  # the paper's, appendix B
    reference_passes: ClassVar[float] = 1.0

    type: Literal["dpo"] = "dpo"
    dpo: OrNull[DpoOptions] = Field(default_factory=DpoOptions)

    def idle_option(self, problem: str = AUTO) -> tuple[str, str] | None:
        if self.dpo.label_smoothing and self.dpo.loss != "sigmoid":
            return "label_smoothing", f"it applies only to the loss 'sigmoid', not to '{self.dpo.loss}'"
        return None
