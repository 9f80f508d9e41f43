from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AliasChoices, Field, model_validator

from api.spec.fields import AUTO, AutoOrNull, OrNull
from api.spec.graders import Grader, NamedModel
from api.spec.methods.base import Hyperparameters, MethodBase, NotNegative, RolloutOptions, models_of


class ReinforcementHyperparameters(Hyperparameters):
    compute_multiplier: AutoOrNull[Annotated[float, Field(ge=1e-5, le=10)]] = AUTO
    """Factor of `group_size`. "auto": 1."""
    eval_interval: AutoOrNull[Annotated[int, Field(ge=1)]] = AUTO
    """Steps between evaluations; the same as training.eval_every."""
    eval_samples: AutoOrNull[Annotated[int, Field(ge=1, le=64)]] = AUTO
    """Answers sampled for each validation prompt. "auto": 1."""
    reasoning_effort: Literal["default"] | None = None
    """A field of OpenAI's. The models here have no such option, so every value except "default" is refused."""

    auto_defaults: ClassVar[Mapping[str, float]] = {
        **Hyperparameters.auto_defaults,
        "compute_multiplier": 1.0,
        "eval_samples": 1,
    }


class ReinforcementOptions(RolloutOptions):
    hyperparameters: OrNull[ReinforcementHyperparameters] = Field(default_factory=ReinforcementHyperparameters)
    grader: Grader
    """The grader that gives each answer its reward."""
    response_format: Annotated[dict[str, object], Field(max_length=0)] | None = None
    """A field of OpenAI's. Structured answers are not supported, so every value is refused."""
    group_size: Annotated[int, Field(ge=2, le=256)] = 8
    """Number of answers sampled for each prompt (G in the GRPO paper)."""
    advantage: Literal["grpo", "dr_grpo", "rloo"] = "grpo"
    """How the reward r of an answer is compared with the rewards of its group. grpo: (r - mean) / std, the loss
    averaged over each answer (Shao et al. 2024, arXiv:2402.03300). dr_grpo: r - mean, the loss summed and divided by
    max_tokens (Liu et al. 2025, arXiv:2503.20783). rloo: r minus the mean of the other answers, the loss summed over
    each answer (Ahmadian et al. 2024, arXiv:2402.14740)."""
    num_iterations: int = Field(1, ge=1, le=64, validation_alias=AliasChoices("num_iterations", "updates"))
    """μ: passes over the answers of one step."""
    clip_range: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """ε: the ratio of new to old probability is clipped to 1 ± ε."""
    kl_coefficient: NotNegative = 0.0
    """β: weight, in the loss, of the divergence from the policy of step 0 (Schulman's k3 estimate)."""

    @model_validator(mode="after")
    def _group(self) -> Self:
        if self.num_generations > 256:
            raise ValueError("group_size times compute_multiplier may be 256 at most")
        return self

    @property
    def num_generations(self) -> int:
        multiplier = self.hyperparameters.compute_multiplier
        return max(2, round(self.group_size * (1.0 if multiplier == AUTO else multiplier)))

    @property
    def passes(self) -> int:
        return self.num_iterations

    def named_models(self) -> Mapping[str, NamedModel]:
        return models_of(self.grader)


class Reinforcement(MethodBase):
    """Reinforcement learning from a grader, as at OpenAI: the model samples a group of answers to each prompt, and each
    answer is scored relative to its group (GRPO, Shao et al. 2024, arXiv:2402.03300)."""

    summary: ClassVar[str] = "Reinforcement learning from a grader, without a value function."
    formats: ClassVar[frozenset[str]] = frozenset({"prompts"})
    rollouts: ClassVar[bool] = True
    learning_rate_factor: ClassVar[float] = 0.1

    type: Literal["reinforcement"] = "reinforcement"
    reinforcement: ReinforcementOptions

    @property
    def keeps_reference(self) -> bool:
        return self.reinforcement.kl_coefficient > 0
