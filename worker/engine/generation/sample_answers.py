"""What a model answers to a few rows of its data, beside what the rows say: for people to look at."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from api.spec.evaluation import ANSWER_TOKENS, MAX_EXTRA_TOKENS, SHOWN_ROWS
from worker.engine.generation.sampler import Sampler
from worker.engine.model.trainable import TrainableModel
from worker.rows.end_tokens import EndTokens
from worker.shared.arrays import Rows

SHOWN_LETTERS = 600
PROMPT_TOKENS = 1024
"""Rows with longer prompts are not shown."""
TEXT_PROMPT_TOKENS = 16
"""Of a plain text, which has no prompt: its beginning stands for one."""


@dataclass(frozen=True)
class GeneratedAnswer:
    prompt: str
    reference: str | None
    answer: str
    reward: float | None = None


def likeliest_answers(base: Path, model: TrainableModel, rows: Rows, budget_tokens: int) -> list[GeneratedAnswer]:
    """Greedy answers to the first rows with prompts of a bearable length. Of pairs the preferred answer is the
    reference."""
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    spans = [span for row in range(len(rows)) if (span := _span(rows, row * rows.width)) is not None][:SHOWN_ROWS]
    if not spans:
        return []
    begins, answers, ends = (np.array(column, np.int64) for column in zip(*spans, strict=True))
    prompts = Rows(rows.tokens, rows.loss_weights, begins, answers)
    references = [rows.tokens[answer:end] for answer, end in zip(answers, ends, strict=True)]
    stops = EndTokens.load(base).stops
    sampler = Sampler(model, tokenizer, stops, pad_token=min(stops, default=0))
    longest = max(map(len, references)) + MAX_EXTRA_TOKENS
    found = sampler.sample(
        prompts,
        max_tokens=min(ANSWER_TOKENS, longest),
        temperature=1.0,
        budget_tokens=budget_tokens,
        greedy=True,
    )
    return [
        GeneratedAnswer(
            prompt=readable(tokenizer.decode(prompt.tolist(), skip_special_tokens=False), from_end=True),
            reference=readable(tokenizer.decode(reference.tolist())),
            answer=readable(text),
        )
        for prompt, reference, text in zip(found.prompts, references, found.texts, strict=True)
    ]


def _span(rows: Rows, sequence: int) -> tuple[int, int, int] | None:
    """Where its prompt begins, its first answer begins, and that answer ends; None if it has no such parts."""
    start, (_, weights_T) = int(rows.starts[sequence]), rows.sequence(sequence)
    learnt = np.flatnonzero(weights_T > 0)
    if len(learnt) == 0 or len(weights_T) < 2:
        return None
    first = int(learnt[0])
    if first <= 1:  # at most the token that begins every text is no part of it
        first = min(TEXT_PROMPT_TOKENS, len(weights_T) // 2)
    if first > PROMPT_TOKENS:
        return None
    unlearnt = np.flatnonzero(weights_T[first:] <= 0)
    end = first + int(unlearnt[0]) if len(unlearnt) else len(weights_T)
    return (start, start + first, start + end) if end > first else None


def readable(text: str, *, from_end: bool = False) -> str:
    """Cut to what one looks at; without the one character that databases cannot keep."""
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if len(text) <= SHOWN_LETTERS:
        return text
    return f"…{text[-SHOWN_LETTERS:]}" if from_end else f"{text[:SHOWN_LETTERS]}…"
