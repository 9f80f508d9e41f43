"""The catalogue of methods: what is optimised.

A new one is a file here, its twin in worker/methods, and a name below.
"""

from typing import Annotated

from pydantic import Field

from api.methods.base import Hyperparameters
from api.methods.supervised import Supervised

# A union of one member cannot carry a discriminator; the second method turns this into `A | B` with one.
Method = Annotated[Supervised, Field()]

__all__ = ["Hyperparameters", "Method", "Supervised"]
