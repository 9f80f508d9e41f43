"""Greedy answers to a few rows of the data, beside the rows' own answers, for people to read."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from api.estimate.sampling import SamplingPlan
from api.spec.evaluation import MAX_EXTRA_TOKENS, SHOWN_ROWS
from worker.engine.generation.rollout_sampler import RolloutSampler
from worker.engine.model.families import context_window
from worker.engine.model.trainable import TrainableModel
from worker.rows.generation_ends import tokenizer_and_ends
from worker.shared.arrays import Rows

MAX_DISPLAY_CHARS = 600
MAX_PROMPT_TOKENS = 1024
"""Rows with longer prompts are skipped, and those whose prompt leaves no room for an answer in the context window."""
TEXT_PROMPT_TOKENS = 16
"""Number of first tokens that serve as the prompt of a plain text, which has none."""


@dataclass(frozen=True)
class GeneratedAnswer:
    prompt: str
    reference: str | None
    answer: str
    reward: float | None = None


def greedy_answers(
    base: Path, model: TrainableModel, rows: Rows, max_tokens: int, plan: SamplingPlan, *, virtual_tokens: int = 0
) -> list[GeneratedAnswer]:
    """Return greedy answers of at most `max_tokens` to the first rows whose prompts are short enough. `virtual_tokens`:
    the number of tokens that the technique puts before a prompt.

    An answer that is cut there ends with "…". Each answer comes with a reference: the first answer in the row, or the
    preferred answer of a preference pair.
    """
    loaded, ends = tokenizer_and_ends(base.resolve())
    tokenizer = loaded.tokenizer
    longest_prompt = MAX_PROMPT_TOKENS
    if (window := context_window(model.network.config.get_text_config())) is not None:
        # GPT-2, for example, has no embedding of a position beyond its window.
        longest_prompt = min(longest_prompt, window - virtual_tokens - max_tokens)
    found = (_span(rows, row * rows.width, longest_prompt) for row in range(len(rows)))
    spans = list(islice((span for span in found if span is not None), SHOWN_ROWS))
    if not spans:
        return []
    prompt_starts, answer_starts, answer_ends = (np.array(column, np.int64) for column in zip(*spans, strict=True))
    prompts = Rows(rows.tokens, rows.loss_weights, prompt_starts, answer_starts)
    references = [rows.tokens[start:end] for start, end in zip(answer_starts, answer_ends, strict=True)]
    sampler = RolloutSampler(model, tokenizer, ends.stops, pad_token=min(ends.stops, default=0))
    longest = max(map(len, references)) + MAX_EXTRA_TOKENS
    answers = sampler.sample(prompts, max_tokens=min(max_tokens, longest), temperature=0.0, plan=plan)
    return [
        GeneratedAnswer(
            prompt=display_text(tokenizer.decode(prompt.tolist(), skip_special_tokens=False), from_end=True),
            reference=display_text(tokenizer.decode(reference.tolist())),
            answer=display_text(text if ended else f"{text}…"),
        )
        for prompt, reference, text, ended in zip(
            answers.prompts, references, answers.texts, answers.ended, strict=True
        )
    ]


def _span(rows: Rows, sequence: int, longest_prompt: int) -> tuple[int, int, int] | None:
    """Return the positions of (the prompt's start, its first answer's start, the end of that answer) among the tokens
    of all rows. None if the sequence has no such parts, or its prompt is longer than `longest_prompt`."""
    start, (_, weights_T) = int(rows.starts[sequence]), rows.sequence(sequence)
    supervised = np.flatnonzero(weights_T > 0)
    if len(supervised) == 0 or len(weights_T) < 2:
        return None
    first = int(supervised[0])
    if first <= 1:  # a plain text: at most its beginning-of-text token is unsupervised
        first = min(TEXT_PROMPT_TOKENS, len(weights_T) // 2)
    if first > longest_prompt:
        return None
    unsupervised = np.flatnonzero(weights_T[first:] <= 0)
    end = first + int(unsupervised[0]) if len(unsupervised) else len(weights_T)
    return (start, start + first, start + end) if end > first else None


def display_text(text: str, *, from_end: bool = False) -> str:
    """Return the text shortened for display, without NUL, which PostgreSQL cannot store. `from_end`: keep the end."""
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if len(text) <= MAX_DISPLAY_CHARS:
        return text
    return f"…{text[-MAX_DISPLAY_CHARS:]}" if from_end else f"{text[:MAX_DISPLAY_CHARS]}…"
