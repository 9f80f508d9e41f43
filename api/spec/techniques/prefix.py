from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from api.spec.techniques.base import TechniqueBase


class Prefix(TechniqueBase):
    """Prefix tuning: learnt keys and values before the text, in every layer (Li and Liang 2021, arXiv:2101.00190).

    A language model's prefix begins as the keys and values of the training text's first words, an encoder's as
    zeros."""

    summary: ClassVar[str] = "Train keys and values that every layer sees before the text."
    default_learning_rate: ClassVar[float] = 1e-2
    peft_type: ClassVar[str | None] = "PREFIX_TUNING"
    packable: ClassVar[bool] = False
    virtual_tokens: ClassVar[bool] = True
    recomputes: ClassVar[bool] = False  # transformers drops the keys and values from before where it recomputes

    type: Literal["prefix"] = "prefix"
    tokens: Annotated[int, Field(ge=1, le=1024)] = 20
    """|P|: length of the prefix."""

    def peft(self) -> Mapping[str, Any]:
        return {"num_virtual_tokens": self.tokens, "prefix_projection": False, "init_weights": "zero"}
