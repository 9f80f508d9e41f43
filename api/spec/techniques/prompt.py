from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from api.spec.techniques.base import TechniqueBase


class Prompt(TechniqueBase):
    """Prompt tuning: learnt embeddings before the text (Lester et al. 2021, arXiv:2104.08691).

    They begin as embeddings of random words."""

    summary: ClassVar[str] = "Train the embeddings of a few tokens that stand before the text."
    default_learning_rate: ClassVar[float] = 3e-2
    peft_type: ClassVar[str | None] = "PROMPT_TUNING"
    packable: ClassVar[bool] = False
    virtual_tokens: ClassVar[bool] = True

    type: Literal["prompt"] = "prompt"
    tokens: Annotated[int, Field(ge=1, le=1024)] = 20
    """|P|: how many tokens are learnt."""

    def peft(self) -> Mapping[str, Any]:
        return {"num_virtual_tokens": self.tokens, "prompt_tuning_init": "SAMPLE_VOCAB"}
