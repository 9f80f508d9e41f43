"""Training methods: one file for each method of `api.spec.methods`, of the same name, with its loss.

Names of tensors and arrays end in their shape. R: rows (R_2: pairs of a chosen and a rejected answer). S: supervised
tokens of a micro-batch. N: tokens of all rows. T: tokens of one sequence. K: classes. P, G: prompts, answers to each.
"""

from worker.engine.objective import MethodContext, Objective
from worker.methods.classification import Classification
from worker.methods.dpo import Dpo
from worker.methods.kto import Kto
from worker.methods.orpo import Orpo
from worker.methods.ppo import Ppo
from worker.methods.reinforcement import Reinforcement
from worker.methods.reward import Reward
from worker.methods.simpo import Simpo
from worker.methods.supervised import Supervised

METHODS: dict[str, type[Objective]] = {
    "supervised": Supervised,
    "classification": Classification,
    "dpo": Dpo,
    "kto": Kto,
    "orpo": Orpo,
    "simpo": Simpo,
    "reward": Reward,
    "ppo": Ppo,
    "reinforcement": Reinforcement,
}

__all__ = ["METHODS", "MethodContext", "Objective"]
