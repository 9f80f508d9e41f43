"""The catalogue of techniques, which decide which weights are trained.

To add one, add a file here and a name to this union.
"""

from typing import Annotated

from pydantic import Field

from api.spec.techniques.base import TechniqueBase
from api.spec.techniques.bottleneck import Bottleneck
from api.spec.techniques.dora import Dora
from api.spec.techniques.full import Full
from api.spec.techniques.ia3 import Ia3
from api.spec.techniques.lora import Lora
from api.spec.techniques.prefix import Prefix
from api.spec.techniques.prompt import Prompt
from api.spec.techniques.qlora import Qlora

Technique = Annotated[Full | Lora | Dora | Qlora | Prefix | Prompt | Ia3 | Bottleneck, Field(discriminator="type")]

__all__ = ["Full", "Lora", "Technique", "TechniqueBase"]
