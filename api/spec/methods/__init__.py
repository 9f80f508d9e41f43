"""The catalogue of methods, which decide what is optimized.

To add a method, add a file here and a file of the same name, with the method's loss, in worker/methods. Then add its
class to the list in each of the two folders.
"""

from typing import Annotated, get_args

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


def _without_null_methods(method: object) -> object:
    """Drop null fields that are named after other methods.

    OpenAI's client parses a method into an object with a field for each method, and sends the unused fields back as
    null.
    """
    if not isinstance(method, dict):
        return method
    others = _NAMES - {method.get("type")} if isinstance(method.get("type"), str) else frozenset()
    return {name: value for name, value in method.items() if value is not None or name not in others}


Method = Annotated[_Methods, Field(discriminator="type"), BeforeValidator(_without_null_methods)]

__all__ = ["Hyperparameters", "Method", "MethodBase", "Output", "Supervised"]
