"""Comparison of the model before and after its training: `evaluation` of a job, and evaluation.json in an artifact."""

from dataclasses import dataclass
from typing import Literal

from api.spec.fields import StrictModel

COMPARED_ROWS = 128
"""Maximum number of validation rows that are compared."""
COMPARED_TRAINING_ROWS = 32
"""Maximum number of training rows that are compared if there are no validation rows. It is lower than COMPARED_ROWS,
because a gain on training rows proves less at the same cost."""
COMPARED_PROMPTS = (4, 16)
"""Smallest and largest number of compared prompts, for methods that sample answers."""
COMPARED_TOKENS = (384, 32_768)
"""Smallest and largest limit on the total tokens of the compared rows. Between them, the limit grows with the trained
tokens (TOKENS_SHARE)."""
SHOWN_ROWS = 3
"""Maximum number of rows in `Evaluation.samples`."""
ANSWER_TOKENS = (8, 64)
"""Smallest and largest limit on the length of a sample's answers, in tokens. Between them, the limit grows with the
trained tokens (TRAINED_FOR_ANSWER_TOKEN)."""
TOKENS_SHARE = 0.015
"""Compared tokens divided by trained tokens. Comparing a token takes about as long as training on it: both models read
it, and there is no backward pass."""
PROMPTS_SHARE = 0.05
"""Compared prompts divided by the prompts of the training."""
TRAINED_FOR_ANSWER_TOKEN = 3_500
"""Trained tokens for each token that a sample's answers may have. Sampling is slow: each further token in the answers
of both models to SHOWN_ROWS rows takes about as long as training on fifty tokens (measured on a CPU,
docs/engine-log.md)."""
MAX_EXTRA_TOKENS = 16
"""Number of tokens by which a sampled answer may be longer than the longest reference answer."""


@dataclass(frozen=True)
class ComparisonLimits:
    """Limits on the size of a comparison, so that it takes only a few percent of the training's time."""

    rows: int
    tokens: int
    answer_tokens: int

    @classmethod
    def of(cls, *, trained_rows: int, mean_tokens: float, validates: bool, rollouts: bool) -> "ComparisonLimits":
        """Return the limits for a training.

        `trained_rows`: rows of all steps, with repetitions. `mean_tokens`: mean length of these rows. `validates`:
        whether the compared rows are validation rows. `rollouts`: whether the method samples answers to the rows.
        """
        trained_tokens = trained_rows * mean_tokens
        rows = COMPARED_ROWS if validates else COMPARED_TRAINING_ROWS
        if rollouts:
            rows = _within(COMPARED_PROMPTS, trained_rows * PROMPTS_SHARE)
        return cls(
            rows=rows,
            tokens=_within(COMPARED_TOKENS, trained_tokens * TOKENS_SHARE),
            answer_tokens=_within(ANSWER_TOKENS, trained_tokens / TRAINED_FOR_ANSWER_TOKEN),
        )


def _within(bounds: tuple[int, int], value: float) -> int:
    least, most = bounds
    return min(most, max(least, int(value)))


class SampleAnswer(StrictModel):
    """A row, and the greedy answers to the row by the model before and after the training."""

    prompt: str
    reference: str | None
    """The answer in the row, if the row has one."""
    base: str
    tuned: str
    base_reward: float | None = None
    tuned_reward: float | None = None
    """Rewards of the answers `base` and `tuned`; null for methods without a reward model or grader."""


class Evaluation(StrictModel):
    rows: int
    """Number of compared rows. They are drawn with a fixed seed; with labels, in proportion to the labels."""
    drawn_from: Literal["validation", "training"]
    """Source of the rows. Training rows are compared if there is no validation data; a gain on them does not prove that
    the model generalizes."""
    base_model: str
    """Name of the model that `base` refers to: the base model, or the fine-tuned model that the job continues."""
    base: dict[str, float | None]
    tuned: dict[str, float | None]
    """The method's metrics before (`base`) and after (`tuned`) the training, by name: `loss` (lower is better) and
    others. Null stands for NaN."""
    samples: list[SampleAnswer]
