"""Comparison of the model before and after its training: a job's `evaluation`, and evaluation.json in an artifact."""

from typing import Literal

from api.spec.fields import StrictModel

COMPARED_ROWS = 128
"""Validation rows that are compared, at most."""
COMPARED_TRAINING_ROWS = 32
"""Training rows that are compared without validation rows. They prove less at the same cost."""
COMPARED_PROMPTS = 16
"""Prompts that are compared for methods that sample answers."""
COMPARED_TOKENS = 32_768
"""Total tokens of the compared rows, at most."""
SHOWN_ROWS = 3
"""Rows in `samples`."""
ANSWER_TOKENS = 64
"""Maximum length of a sample's answers."""
MAX_EXTRA_TOKENS = 16
"""Tokens by which an answer may exceed the longest reference."""


class SampleAnswer(StrictModel):
    """A row, and the greedy answers to it by the model before and after the training."""

    prompt: str
    reference: str | None
    """The row's own answer, if it has one."""
    base: str
    tuned: str
    base_reward: float | None = None
    tuned_reward: float | None = None
    """Rewards of the two answers, for methods with a reward model or grader."""


class Evaluation(StrictModel):
    rows: int
    """Number of compared rows. They are drawn with the job's seed; with labels, in proportion to the labels."""
    drawn_from: Literal["validation", "training"]
    """Source of the rows. Training rows are compared if there is no validation data; a gain on them does not prove that
    the model generalizes."""
    base_model: str
    """Name of the model that `base` refers to: the base model, or the fine-tuned model that the job continues."""
    base: dict[str, float | None]
    tuned: dict[str, float | None]
    """The method's metrics by name: `loss` (lower is better) and others; null stands for NaN."""
    samples: list[SampleAnswer]
