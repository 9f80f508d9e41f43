"""The catalogue of methods: what is optimised.

A new one is a file here, its twin in worker/methods, and a name below.
"""

from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field

from api.spec.methods.base import Hyperparameters, MethodBase, Output
from api.spec.methods.classification import Classification
from api.spec.methods.dpo import Dpo
from api.spec.methods.kto import Kto
from api.spec.methods.orpo import Orpo
from api.spec.methods.ppo import Ppo
from api.spec.methods.reinforcement import Reinforcement
from api.spec.methods.reward import Reward
from api.spec.methods.simpo import Simpo
from api.spec.methods.supervised import Supervised

_Methods = Supervised | Classification | Dpo | Kto | Orpo | Simpo | Reward | Ppo | Reinforcement
_NAMES = frozenset(method.model_fields["type"].default for method in get_args(_Methods))


def _null_of_another_is_absent(method: Any) -> Any:
    """OpenAI's client reads a method as an object with a field for each: sent back, it has nulls for the others."""
    if not isinstance(method, dict):
        return method
    others = _NAMES - {method.get("type")} if isinstance(method.get("type"), str) else frozenset()
    return {name: value for name, value in method.items() if value is not None or name not in others}


Method = Annotated[_Methods, Field(discriminator="type"), BeforeValidator(_null_of_another_is_absent)]

__all__ = ["Hyperparameters", "Method", "MethodBase", "Output", "Supervised"]
