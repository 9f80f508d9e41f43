from typing import ClassVar, Literal

from pydantic import Field

from api.spec.fields import OrNull
from api.spec.methods.base import MethodBase, NotNegative, Options, Output


class RewardOptions(Options):
    centering: NotNegative = 0.0
    """c: weight of an additional term c (r_w + r_l)² in the loss, which keeps rewards around zero (Eisenstein et al.
    2023, arXiv:2312.09244)."""


class Reward(MethodBase):
    """Train a reward model on pairs of a preferred and a rejected answer.

    Loss: -log σ(r(x, y_w) - r(x, y_l) - m) (Ouyang et al. 2022, arXiv:2203.02155). A row may give the margin m (Touvron
    et al. 2023, arXiv:2307.09288). PPO and reinforcement jobs and graders can use the published model as their reward.
    """

    summary: ClassVar[str] = "Learn a reward from preferences, for ppo, reinforcement and graders."
    formats: ClassVar[frozenset[str]] = frozenset({"preference"})
    output: ClassVar[Output] = "reward"
    uses_margins: ClassVar[bool] = True
    learning_rate_factor: ClassVar[float] = 0.5

    type: Literal["reward"] = "reward"
    reward: OrNull[RewardOptions] = Field(default_factory=RewardOptions)
