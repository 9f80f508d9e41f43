from typing import ClassVar, Literal

from pydantic import Field

from api.fields import OrNull, Strict
from api.methods.base import Hyperparameters, MethodBase


class SupervisedOptions(Strict):
    hyperparameters: OrNull[Hyperparameters] = Field(default_factory=Hyperparameters)
    train_on: Literal["all", "last"] = "all"
    """Which assistant messages of a conversation carry loss: all of them (as at OpenAI) or only the last."""


class Supervised(MethodBase):
    """Next-token cross-entropy on what the assistant says; on everything, for plain text."""

    summary: ClassVar[str] = "Imitate the assistant's turns (or the completion, or the text)."
    formats: ClassVar[frozenset[str]] = frozenset({"chat", "completion", "text"})

    type: Literal["supervised"] = "supervised"
    supervised: OrNull[SupervisedOptions] = Field(default_factory=SupervisedOptions)

    @property
    def options(self) -> SupervisedOptions:
        return self.supervised
