from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AliasChoices, Field, model_validator

from api.spec.fields import AUTO, OrNull, StrictModel
from api.spec.graders import Grader, NamedModel
from api.spec.methods.base import MethodBase, NotNegative, Positive, RolloutOptions, models_of

Share = Annotated[float, Field(ge=0, le=1)]
Clip = Annotated[float, Field(gt=0, lt=1)]


class AdaptiveKl(StrictModel):
    target: Positive = 6.0
    """KL_target: the divergence that β is adapted to reach, in nats per answer."""
    horizon: Annotated[int, Field(ge=1)] = 10_000
    """Number of answers over which β adapts; K_β is 1 / horizon."""


class PpoOptions(RolloutOptions):
    reward_model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """The model of a `reward` job that scores the answers. Excludes `grader`."""
    grader: Grader | None = None
    """The grader that scores the answers, if there is no reward model."""
    num_ppo_epochs: int = Field(4, ge=1, le=64, validation_alias=AliasChoices("num_ppo_epochs", "updates"))
    """K: passes over the answers of one iteration."""
    minibatches: Annotated[int, Field(ge=1, le=64)] = 1
    """Optimizer updates in each pass over the answers."""
    clip_range: Clip = 0.2
    """ε: the ratio of new to old probability is clipped to 1 ± ε."""
    value_clip_range: Clip = 0.2
    """ε_v: largest change of a predicted value in one iteration."""
    value_coefficient: NotNegative = 0.1
    """c_1: weight of the value loss."""
    entropy_coefficient: NotNegative = 0.0
    """c_2: weight of the entropy bonus."""
    discount: Share = 1.0
    """γ: discount of later rewards. Default 1."""
    gae_lambda: Share = 0.95
    """λ of generalized advantage estimation (Schulman et al. 2015, arXiv:1506.02438)."""
    kl_coefficient: NotNegative = 0.05
    """β: penalty for each nat of divergence from the policy at step 0, token by token."""
    adaptive_kl: AdaptiveKl | None = None
    """Adapt β so that the divergence stays at a target (Ziegler et al. 2019, arXiv:1909.08593)."""
    whiten_rewards: bool = False
    """Scale the rewards of an iteration to unit variance and keep their mean."""
    missing_eos_penalty: NotNegative = Field(
        0.0, validation_alias=AliasChoices("missing_eos_penalty", "missing_end_penalty")
    )
    """Number that is subtracted from the reward of an answer that was cut off at `max_tokens`."""

    @property
    def passes(self) -> int:
        return self.num_ppo_epochs

    @model_validator(mode="after")
    def _one_judge(self) -> Self:
        if (self.reward_model is None) == (self.grader is None):
            raise ValueError("give either reward_model (the model of a reward job) or grader")
        return self

    def named_models(self) -> Mapping[str, NamedModel]:
        return {"reward_model": NamedModel(self.reward_model)} if self.reward_model else models_of(self.grader)


class Ppo(MethodBase):
    """Proximal policy optimization against a reward, with a penalty for leaving the policy at step 0 (Schulman et al.
    2017, arXiv:1707.06347; for language models Ziegler et al. 2019, arXiv:1909.08593)."""

    summary: ClassVar[str] = "Reinforcement learning against a reward model or a grader (RLHF)."
    formats: ClassVar[frozenset[str]] = frozenset({"prompts"})
    rollouts: ClassVar[bool] = True
    takes_reward_model: ClassVar[bool] = True
    value_head: ClassVar[bool] = True
    learning_rate_factor: ClassVar[float] = 0.1

    type: Literal["ppo"] = "ppo"
    ppo: OrNull[PpoOptions]

    @property
    def keeps_reference(self) -> bool:
        return True

    def idle_option(self, problem: str = AUTO) -> tuple[str, str] | None:
        if self.ppo.adaptive_kl is not None and not self.ppo.kl_coefficient:
            return "adaptive_kl", "it multiplies kl_coefficient, which is 0"
        return None
