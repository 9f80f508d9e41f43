"""The tokens and loss weights of rows, by the base model's tokenizer.

transformers is not imported, because that takes seconds and loads torch. `tokenizer.json` has all that is needed:
worker.convert checks that transformers, which reads all files of the folder, gives the same tokens.
"""

import json
import os
import resource
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from worker.rows.spans import Span
from worker.rows.special_tokens import end_ids, special_tokens
from worker.rows.token_bytes import TokenBytes

MIN_BATCH = 32
"""Smallest number of texts in a batch for which listing the bytes of all tokens (worker.rows.token_bytes) saves time.
"""
THREAD_BYTES = 64 << 20
"""Memory for each thread that tokenizes."""


def tokenize_on_all_cores() -> None:
    """Let this process tokenize batches on all its cores, as far as its memory allows. Call it before the first
    batch."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    memory, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if memory != resource.RLIM_INFINITY and memory // THREAD_BYTES < (os.cpu_count() or 1):
        os.environ["RAYON_NUM_THREADS"] = str(max(1, memory // THREAD_BYTES))


@dataclass(frozen=True)
class TokenRow:
    """The tokens of one sequence."""

    tokens: npt.NDArray[np.int32]
    """[T]"""
    loss_weights: npt.NDArray[np.float32]
    """[T]: the weight in the loss of predicting this token from those before it."""


class Spanned(Protocol):
    """A text whose tokens get their loss weights from spans."""

    @property
    def text(self) -> str: ...
    @property
    def spans(self) -> Sequence[Span]: ...
    @property
    def rest_weight(self) -> float:
        """The loss weight of tokens outside all spans."""
        ...


@dataclass(frozen=True)
class PromptCompletionText:
    """Text without a template: a prompt and its completion."""

    prompt: str
    completion: str = ""
    weight: float = 1.0
    """The loss weight of the completion and of the end-of-text token."""
    prompt_weight: float = 0.0
    """The loss weight of the prompt."""
    append_end: bool = True
    """Whether the end-of-text token is appended. False for a prompt, which the model continues."""
    with_special_tokens: bool = False
    """Whether the prompt is tokenized as plain `tokenizer(text)` does, with loss weight 0. There must then be no
    completion."""


class TokenizerWrapper:
    """A tokenizer with the special tokens of its base model."""

    def __init__(self, tokenizer: Tokenizer, *, eos_id: int | None, end_texts: frozenset[str]) -> None:
        self.tokenizer = tokenizer
        self.end_texts = end_texts
        """Texts of the tokens at which the model's settings end a generation."""
        before, after = _surroundings(tokenizer)
        self.frame_end = after
        """Ids that the tokenizer itself appends to a text, such as BERT's [SEP]."""
        self.prefix: list[int] = before
        """Ids that the tokenizer puts before a document: usually the beginning-of-text token; empty if it puts none."""
        needs_eos = eos_id is not None and eos_id not in after
        self.suffix: list[int] = [*after, eos_id] if needs_eos and eos_id is not None else after
        """Ids that end a document."""
        last = {str(tokenizer.id_to_token(self.suffix[-1]))} if self.suffix else set()
        self._endings = tuple((end_texts | last) & self.added_texts())

    @classmethod
    def load(cls, base: Path) -> "TokenizerWrapper":
        """Return the tokenizer of the base model in the folder."""
        settings = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
        # The file's own truncation and padding are turned off. Offsets must cover every character of a token.
        settings["truncation"] = settings["padding"] = None
        _keep_spaces_in_offsets(settings.get("post_processor"))
        tokenizer = Tokenizer.from_str(json.dumps(settings))
        named = special_tokens(base)
        texts = {tokenizer.id_to_token(number) for number in end_ids(base)} | {named.get("eos_token")}
        eos_id = tokenizer.token_to_id(named["eos_token"]) if "eos_token" in named else None
        if eos_id is None:
            eos_id = min(end_ids(base), default=None)
        return cls(tokenizer, eos_id=eos_id, end_texts=frozenset(text for text in texts if text))

    def control_texts(self) -> set[str]:
        """Return the texts of added tokens that control the model, such as the ends of texts, turns and calls."""
        return {token.content for token in self.tokenizer.get_added_tokens_decoder().values() if token.special}

    def added_texts(self) -> set[str]:
        """Return the texts that always become one token, such as <|im_end|>."""
        return {token.content for token in self.tokenizer.get_added_tokens_decoder().values()}

    def encode(self, texts: Sequence["Spanned | PromptCompletionText"]) -> list[TokenRow]:
        """Return the tokens and loss weights of rendered conversations and plain texts, in their order."""
        plain = iter(self.encode_plain([text for text in texts if isinstance(text, PromptCompletionText)]))
        spanned = iter(self.encode_spanned([text for text in texts if not isinstance(text, PromptCompletionText)]))
        return [next(plain) if isinstance(text, PromptCompletionText) else next(spanned) for text in texts]

    def encode_spanned(self, rows: Sequence[Spanned]) -> list[TokenRow]:
        """Return the tokens of rendered conversations. The template has written every special token."""
        texts = [row.text for row in rows]
        if len(rows) < MIN_BATCH or self._token_bytes is None:
            encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
            return [_with_offsets(encoding, row) for encoding, row in zip(encodings, rows, strict=True)]
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [self._without_offsets(encoding.ids, row) for encoding, row in zip(encodings, rows, strict=True)]

    def _without_offsets(self, ids: list[int], row: Spanned) -> TokenRow:
        assert self._token_bytes is not None
        ids_T = np.array(ids, np.int32)
        weights_T = self._token_bytes.weights(ids, ids_T, row.text, row.spans, row.rest_weight)
        if weights_T is None:
            return _with_offsets(self.tokenizer.encode(row.text, add_special_tokens=False), row)
        return TokenRow(ids_T, weights_T)

    def encode_plain(self, rows: Sequence[PromptCompletionText]) -> list[TokenRow]:
        """Return the tokens of plain texts, with their completion and end supervised.

        Tokens that begin or end a document are added once, unless the text already contains them.
        """
        prompts = self._ids(["" if row.with_special_tokens else row.prompt for row in rows])
        whole = iter(self._ids([row.prompt + row.completion for row in rows if row.completion]))
        encoded = []
        for row, prompt_ids in zip(rows, prompts, strict=True):
            if row.with_special_tokens:
                ids = np.array(self.tokenizer.encode(row.prompt).ids, np.int32)
                encoded.append(TokenRow(ids, np.zeros(len(ids), np.float32)))
                continue
            whole_ids = next(whole) if row.completion else prompt_ids
            # The prompt keeps the tokens that it has without the completion, because in use the model gets it alone.
            completion_ids = (
                whole_ids[len(prompt_ids) :]
                if whole_ids[: len(prompt_ids)] == prompt_ids
                else self._continuation_ids(row.completion)
            )
            text_ids = [*prompt_ids, *completion_ids]
            has_prefix = text_ids[: len(self.prefix)] == self.prefix
            has_end = (row.completion if row.weight else row.prompt).rstrip().endswith(self._endings)
            prefix = [] if has_prefix else self.prefix
            tokens = [*prefix, *text_ids, *(self.suffix if row.append_end and not has_end else [])]
            weights = np.full(len(tokens), row.weight, np.float32)
            weights[: max(len(self.prefix), len(prefix) + len(prompt_ids))] = row.prompt_weight
            encoded.append(TokenRow(np.array(tokens, np.int32), weights))
        return encoded

    @cached_property
    def _token_bytes(self) -> TokenBytes | None:
        return TokenBytes.load(self.tokenizer)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def _continuation_ids(self, text: str) -> list[int]:
        """Return the ids of a text that continues another, without the space that some tokenizers put before it."""
        newline, after_newline = self._ids(["\n", "\n" + text])
        if after_newline[: len(newline)] == newline:
            return after_newline[len(newline) :]
        return self._ids([text])[0]


def _surroundings(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer's post-processor puts before and after a text."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a", add_special_tokens=True).ids
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []


def _keep_spaces_in_offsets(settings: object) -> None:
    """Turn off `trim_offsets` in a post-processor and its parts, so that a token's offsets include the space before
    it."""
    if isinstance(settings, dict):
        if "trim_offsets" in settings:
            settings["trim_offsets"] = False
        for part in settings.get("processors", []):
            _keep_spaces_in_offsets(part)


def _with_offsets(encoding: Encoding, row: Spanned) -> TokenRow:
    """Return the tokens, each with the weight of the span that its characters overlap."""
    offsets = encoding.offsets
    weights_T = np.full(len(offsets), row.rest_weight, np.float32)
    ends = [end for _, end in offsets]
    starts = [start for start, _ in offsets]
    for span in row.spans:
        # Tokens are in text order, so those overlapping a span are contiguous.
        first = bisect_left(ends, span.start + 1)
        weights_T[first : bisect_left(starts, span.end, lo=first)] = span.weight
    return TokenRow(np.array(encoding.ids, np.int32), weights_T)
