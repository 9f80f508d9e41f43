"""The dates that OpenAI has announced for the end of its evals, fine-tuning jobs and tuned models."""

import re
from datetime import date

EVALS_READ_ONLY = date(2026, 10, 31)
EVALS_DARK = date(2026, 11, 30)
LAST_NEW_JOB = date(2027, 1, 6)
LAST_ANSWER = date(2027, 1, 14)
"""Last day on which tuned models of the 4o and 4.1 families answer."""

ENDING_MODELS = re.compile(r"ft:gpt-(4o|4\.1)\b")

DEADLINES = {
    EVALS_READ_ONLY: "Evals are read-only since this day.",
    EVALS_DARK: "Evals and their runs can no longer be read.",
    LAST_NEW_JOB: "The last day for new fine-tuning jobs.",
    LAST_ANSWER: "The last day on which tuned models of the 4o and 4.1 families answer.",
}


def answers_until(model: str) -> date | None:
    """Return the last day on which a tuned model answers; None if no day is announced."""
    return LAST_ANSWER if ENDING_MODELS.match(model) else None
