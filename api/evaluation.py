"""The model before its training against the one after it: `evaluation` of a job, evaluation.json of an artifact."""

from typing import Literal

from api.fields import Strict


class SampleAnswer(Strict):
    """One row, and the likeliest answers to it."""

    prompt: str
    reference: str | None
    """What the row itself answers, where it does."""
    base: str
    tuned: str
    base_reward: float | None = None
    tuned_reward: float | None = None
    """Of methods that judge answers."""


class Evaluation(Strict):
    rows: int
    """So many rows were looked at, the first ones."""
    drawn_from: Literal["validation", "training"]
    """Training rows where there are no others: the gain on them is no proof that anything general was learnt."""
    base_model: str
    """What "base" is: the base model, or the fine-tuned one that the job continues."""
    base: dict[str, float | None]
    tuned: dict[str, float | None]
    """The method's metrics by name: `loss` (lower is better) and others; null is not a number."""
    samples: list[SampleAnswer]
