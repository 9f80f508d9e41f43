"""Training methods. Each file holds the loss of the method of the same name in `api.spec.methods`.

Variable names of tensors and arrays end in their shape. Each letter is the size of one dimension: R rows; S supervised
tokens in a micro-batch; N tokens of all rows; T tokens of one sequence; K classes; P prompts; G answers per prompt.
`_R_2` means [R, 2]: the chosen answer, then the rejected one.
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
