from typing import Annotated, ClassVar, Literal

from pydantic import Field

from api.spec.fields import OrNull
from api.spec.methods.base import MethodBase, NotNegative, Options, Smoothing


class SupervisedOptions(Options):
    train_on: Literal["all", "last"] = "all"
    """Which assistant messages of a conversation carry loss: all of them (as at OpenAI) or only the last."""
    prompt_loss_weight: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight in the loss of every token that is given and not answered: prompts, questions, tools. 0: answers alone."""
    neftune_alpha: NotNegative = 0.0
    """α of noisy embeddings while training (Jain et al. 2023, arXiv:2310.05914): uniform noise of α / √(L d)."""
    label_smoothing: Smoothing = 0.0
    """ε: (1 - ε) of the target goes to the token, ε is spread over the whole vocabulary (Szegedy et al. 2016)."""


class Supervised(MethodBase):
    """Next-token cross-entropy on what the assistant says; on everything, for plain text."""

    summary: ClassVar[str] = "Imitate the assistant's turns (or the completion, or the text)."
    formats: ClassVar[frozenset[str]] = frozenset({"chat", "completion", "text", "instruction", "sharegpt"})
    row_options: ClassVar[frozenset[str]] = frozenset({"train_on", "prompt_loss_weight"})

    type: Literal["supervised"] = "supervised"
    supervised: OrNull[SupervisedOptions] = Field(default_factory=SupervisedOptions)
