"""The catalogue of techniques: what is trained. A new one is a file here and a name in this union."""

from typing import Annotated

from pydantic import Field

from api.techniques.full import Full
from api.techniques.lora import Lora

Technique = Annotated[Full | Lora, Field(discriminator="type")]

__all__ = ["Full", "Lora", "Technique"]
