"""The first rows of a file as a model will see them: texts, tokens, which of them are learnt, where they are cut."""

import itertools
from typing import Any

import msgspec
import numpy as np

from worker.rows.examiner import Examined, tokenised
from worker.rows.row_builder import TokenizableRow
from worker.rows.tokenizer import TokenizerWrapper

MAX_TOKENS = 4096
"""Of a sequence that are listed."""
MAX_LETTERS = 65_536


class SeenSequence(msgspec.Struct):
    role: str
    """text, chosen or rejected, document, prompt."""
    text: str
    """After the template; its first letters where it is very long."""
    length: int
    """In tokens, before the cut."""
    cut_at: int | None
    """Tokens that are left after the cut; null if all are."""
    supervised_tokens: int
    """Of those that are left, how many carry loss."""
    tokens: list[int]
    """The first of them, those behind the cut included."""
    token_texts: list[str]
    """Each on its own: a letter that is split into several tokens shows as � in them."""
    loss_weights: list[float]
    """Of predicting each token from those before it. The first is predicted from nothing and never counts."""
    spans: list[list[float]]
    """[first, after the last, weight]: runs of tokens that carry loss, those behind the cut left out."""


class PreviewRow(msgspec.Struct):
    row: int
    """From 1."""
    line: int
    """In the file, where its rows are lines; else as `row`."""
    sequences: list[SeenSequence]
    """None where the row is invalid."""
    label: Any = None
    dropped: bool = False
    """It is left out of the training: too long, or nothing to learn is left of it."""
    findings: list[dict[str, Any]] = []


def seen_row(examined: Examined, tokens: TokenizerWrapper, max_length: int | None, *, drop: bool) -> list[PreviewRow]:
    """What becomes of a row: one of the arrays' rows, or two of a pair under kto."""
    if not examined.composed:
        return [PreviewRow(examined.row, examined.line, [], findings=examined.findings)]
    return [
        _seen(examined, each, tokens, max_length, drop, first=number == 0)
        for number, each in enumerate(examined.composed)
    ]


def _seen(
    examined: Examined,
    composed: TokenizableRow,
    tokens: TokenizerWrapper,
    max_length: int | None,
    drop: bool,
    *,
    first: bool,
) -> PreviewRow:
    roles = ["chosen", "rejected"] if len(composed.sequences) == 2 else ["prompt" if composed.item else "text"]
    found = tokenised(composed.sequences, tokens)
    sequences = [
        _sequence(role, _text(text), row.tokens, row.loss_weights, tokens, max_length)
        for role, text, row in zip(roles, composed.sequences, found, strict=True)
    ]
    cut = any(each.cut_at is not None for each in sequences)
    labelled = composed.label is not None and len(sequences) == 1
    nothing = composed.item is None and not labelled and any(not each.supervised_tokens for each in sequences)
    return PreviewRow(
        examined.row,
        examined.line,
        sequences,
        label=composed.label,
        dropped=nothing or (cut and (drop or composed.item is not None)),
        findings=examined.findings if first else [],
    )


def _sequence(
    role: str, text: str, ids_T: Any, weights_T: Any, tokens: TokenizerWrapper, max_length: int | None
) -> SeenSequence:
    length = len(ids_T)
    left = length if max_length is None else min(length, max_length)
    learnt_T = weights_T.copy()
    learnt_T[:1] = 0
    listed = [int(each) for each in ids_T[:MAX_TOKENS]]
    return SeenSequence(
        role=role,
        text=text[:MAX_LETTERS],
        length=length,
        cut_at=left if left < length else None,
        supervised_tokens=int(np.count_nonzero(learnt_T[:left])),
        tokens=listed,
        token_texts=[tokens.tokenizer.decode([each], skip_special_tokens=False) for each in listed],
        loss_weights=[float(each) for each in learnt_T[:MAX_TOKENS]],
        spans=_spans(learnt_T[:left]),
    )


def _spans(weights_T: Any) -> list[list[float]]:
    borders = [0, *(np.flatnonzero(np.diff(weights_T)) + 1).tolist(), len(weights_T)]
    runs = itertools.pairwise(borders)
    return [[begin, end, float(weights_T[begin])] for begin, end in runs if begin < end and weights_T[begin] != 0]


def _text(text: Any) -> str:
    return str(text.text) if hasattr(text, "text") else str(text.given + text.learnt)
