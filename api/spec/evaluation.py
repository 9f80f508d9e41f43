"""The model before its training against the one after it: `evaluation` of a job, evaluation.json of an artifact."""

from typing import Literal

from api.spec.fields import StrictModel

COMPARED_ROWS = 128
COMPARED_TRAINING_ROWS = 32
"""Where there is no validation: they show less, and cost the same."""
COMPARED_PROMPTS = 16
"""Of a method that samples answers to them."""
COMPARED_TOKENS = 32_768
SHOWN_ROWS = 3
ANSWER_TOKENS = 64
MAX_EXTRA_TOKENS = 16
"""So many tokens may an answer be longer than the longest of the references."""


class SampleAnswer(StrictModel):
    """One row, and the likeliest answers to it."""

    prompt: str
    reference: str | None
    """What the row itself answers, where it does."""
    base: str
    tuned: str
    base_reward: float | None = None
    tuned_reward: float | None = None
    """Of methods that judge answers."""


class Evaluation(StrictModel):
    rows: int
    """Rows that were looked at, drawn with the job's seed; with labels, each in its share."""
    drawn_from: Literal["validation", "training"]
    """Training rows where there are no others: the gain on them is no proof that anything general was learnt."""
    base_model: str
    """What "base" is: the base model, or the fine-tuned one that the job continues."""
    base: dict[str, float | None]
    tuned: dict[str, float | None]
    """The method's metrics by name: `loss` (lower is better) and others; null is not a number."""
    samples: list[SampleAnswer]
