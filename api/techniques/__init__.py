"""The catalogue of techniques: what is trained. A new one is a file here and a name in this union."""

from typing import Annotated

from pydantic import Field

from api.techniques.base import TechniqueBase
from api.techniques.bottleneck import Bottleneck
from api.techniques.dora import Dora
from api.techniques.full import Full
from api.techniques.ia3 import Ia3
from api.techniques.lora import Lora
from api.techniques.prefix import Prefix
from api.techniques.prompt import Prompt
from api.techniques.qlora import Qlora

Technique = Annotated[Full | Lora | Dora | Qlora | Prefix | Prompt | Ia3 | Bottleneck, Field(discriminator="type")]

__all__ = ["Full", "Lora", "Technique", "TechniqueBase"]
