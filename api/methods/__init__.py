"""The catalogue of methods: what is optimised.

A new one is a file here, its twin in worker/methods, and a name below.
"""

from typing import Annotated

from pydantic import Field

from api.methods.base import Hyperparameters, MethodBase, ModelKind, Output
from api.methods.classification import Classification
from api.methods.dpo import Dpo
from api.methods.kto import Kto
from api.methods.orpo import Orpo
from api.methods.ppo import Ppo
from api.methods.reinforcement import Reinforcement
from api.methods.reward import Reward
from api.methods.simpo import Simpo
from api.methods.supervised import Supervised

Method = Annotated[
    Supervised | Classification | Dpo | Kto | Orpo | Simpo | Reward | Ppo | Reinforcement, Field(discriminator="type")
]

__all__ = ["Hyperparameters", "Method", "MethodBase", "ModelKind", "Output", "Supervised"]
