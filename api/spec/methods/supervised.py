from typing import Annotated, ClassVar, Literal

from pydantic import Field

from api.spec.fields import OrNull
from api.spec.methods.base import MethodBase, NotNegative, Options, Smoothing


class SupervisedOptions(Options):
    train_on: Literal["all", "last"] = "all"
    """Assistant messages of a conversation that carry loss: all of them (as at OpenAI) or only the last."""
    prompt_loss_weight: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight in the loss of every token of the prompt: questions, system messages, tools. Default 0: answers only."""
    neftune_alpha: NotNegative = 0.0
    """α of NEFTune (Jain et al. 2023, arXiv:2310.05914): in training, uniform noise of size α / √(L d) is added to the
    embeddings of L tokens with width d."""
    label_smoothing: Smoothing = 0.0
    """ε: (1 - ε) of the target goes to the token, ε is spread over the whole vocabulary (Szegedy et al. 2016)."""


class Supervised(MethodBase):
    """Next-token cross-entropy on the assistant's messages, or on all of a plain text."""

    summary: ClassVar[str] = "Learn the assistant's messages (or the completion, or the text)."
    formats: ClassVar[frozenset[str]] = frozenset({"chat", "completion", "text", "instruction", "sharegpt"})
    row_options: ClassVar[frozenset[str]] = frozenset({"train_on", "prompt_loss_weight"})

    type: Literal["supervised"] = "supervised"
    supervised: OrNull[SupervisedOptions] = Field(default_factory=SupervisedOptions)
