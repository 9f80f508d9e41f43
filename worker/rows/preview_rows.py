"""The first rows of a file as the model gets them: texts, tokens, their loss weights, and where they are truncated."""

import itertools
from functools import cache

import msgspec
import numpy as np
import numpy.typing as npt

from api.spec.formats import Label
from worker.rows.file_rows import CheckedRow
from worker.rows.findings import Finding
from worker.rows.render import Rendered
from worker.rows.row_builder import TokenizableRow
from worker.rows.tokenize_rows import PromptCompletionText, TokenizerWrapper, TokenRow

MAX_TOKENS = 4096
"""Maximum number of tokens of a sequence that are listed."""
MAX_CHARACTERS = 65_536
"""Maximum number of characters of a sequence's text that are shown."""


class PreviewSequence(msgspec.Struct):
    role: str
    """"text", "chosen", "rejected" or "prompt"."""
    text: str
    """The rendered text; its beginning if it is very long."""
    length: int
    """Number of tokens before truncation."""
    cut_at: int | None
    """Number of tokens left after truncation; null if the sequence is not truncated."""
    supervised_tokens: int
    """Number of tokens with a loss weight, after truncation."""
    tokens: list[int]
    """The first tokens, including those that truncation removes."""
    token_texts: list[str]
    """The text of each listed token, with the space before it. A character that spans several tokens is � in each of
    them."""
    loss_weights: list[float]
    """The weight of each listed token's prediction in the loss. It is 0 for the first token, which is never predicted.
    """
    spans: list[list[float]]
    """[first, end, weight] of each run of tokens with the same loss weight, after truncation."""


class PreviewRow(msgspec.Struct):
    row: int
    """Number of the row, from 1."""
    line: int
    """The row's line in JSON Lines; in other containers, the same as `row`."""
    sequences: list[PreviewSequence]
    """Empty if the row is invalid."""
    label: Label | None = None
    dropped: bool = False
    """Whether training leaves the row out, because it is too long or has no supervised token left."""
    findings: list[Finding] = []


def preview_rows(
    row: CheckedRow,
    findings: list[Finding],
    tokenizer: TokenizerWrapper,
    max_length: int | None,
    *,
    drop: bool,
) -> list[PreviewRow]:
    """Return the array rows that a row becomes: one, or two for a pair if the method is kto. The first one has the
    findings.
    `drop`: whether a row with a sequence longer than `max_length` is dropped instead of truncated.
    """
    if not row.built:
        return [PreviewRow(row.number, row.line, [], findings=findings)]
    previews = []
    for built in row.built:
        sequences = _sequences(built, tokenizer, max_length)
        label, dropped = built.label, _is_dropped(built, sequences, drop=drop)
        previews.append(PreviewRow(row.number, row.line, sequences, label=label, dropped=dropped))
    previews[0].findings = findings
    return previews


def _is_dropped(built: TokenizableRow, sequences: list[PreviewSequence], *, drop: bool) -> bool:
    if any(sequence.cut_at is not None for sequence in sequences) and (drop or built.item is not None):
        return True
    learnt = any(map(_is_learnt, built.sequences))  # prompts, and texts that have only a label, are not
    return learnt and any(not sequence.supervised_tokens for sequence in sequences)


def _is_learnt(text: Rendered | PromptCompletionText) -> bool:
    return bool(text.spans) if isinstance(text, Rendered) else text.weight > 0


def _sequences(built: TokenizableRow, tokenizer: TokenizerWrapper, max_length: int | None) -> list[PreviewSequence]:
    roles = ["chosen", "rejected"] if len(built.sequences) == 2 else ["prompt" if built.item else "text"]
    encoded = tokenizer.encode(built.sequences)
    return [
        _sequence(role, _text(text), row, tokenizer, max_length)
        for role, text, row in zip(roles, built.sequences, encoded, strict=True)
    ]


def _sequence(
    role: str, text: str, row: TokenRow, tokenizer: TokenizerWrapper, max_length: int | None
) -> PreviewSequence:
    length = len(row.tokens)
    kept = length if max_length is None else min(length, max_length)
    weights_T = row.loss_weights.copy()
    weights_T[:1] = 0
    listed = row.tokens[:MAX_TOKENS].tolist()
    return PreviewSequence(
        role=role,
        text=text[:MAX_CHARACTERS],
        length=length,
        cut_at=kept if kept < length else None,
        supervised_tokens=int(np.count_nonzero(weights_T[:kept])),
        tokens=listed,
        token_texts=_token_texts(listed, tokenizer),
        loss_weights=weights_T[:MAX_TOKENS].tolist(),
        spans=_spans(weights_T[:kept]),
    )


def _token_texts(tokens: list[int], tokenizer: TokenizerWrapper) -> list[str]:
    """Return the text that each token adds to the token before it.

    Each token is decoded together with the token before it, because the decoders of WordPiece and SentencePiece write
    the space before a word only if the word follows another token.
    """

    @cache
    def decode(*some: int) -> str:
        return tokenizer.tokenizer.decode(list(some), skip_special_tokens=False)

    texts = [decode(token) for token in tokens[:1]]
    for before, token in itertools.pairwise(tokens):
        text, pair = decode(before), decode(before, token)
        texts.append(pair.removeprefix(text) if pair.startswith(text) else decode(token))
    return texts


def _spans(weights_T: npt.NDArray[np.float32]) -> list[list[float]]:
    borders = [0, *(np.flatnonzero(np.diff(weights_T)) + 1).tolist(), len(weights_T)]
    runs = itertools.pairwise(borders)
    return [[begin, end, float(weights_T[begin])] for begin, end in runs if begin < end and weights_T[begin] != 0]


def _text(text: Rendered | PromptCompletionText) -> str:
    return text.text if isinstance(text, Rendered) else text.prompt + text.completion
