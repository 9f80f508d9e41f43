"""Answers that are generated together: each pass over the model's weights gives the next token of every answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from worker.engine.generation.cached_passes import prompts_pass, token_pass
from worker.engine.generation.key_value_cache import KeyValueCache, PackedPrompts
from worker.engine.model.attention import Segments
from worker.engine.model.families import head_of
from worker.sampling.answer import Answer
from worker.sampling.bases import LoadedBase, ModelSource

Draw = Callable[["Row", torch.Tensor], bool]
"""Draws the row's next token from its logits [V]. Returns whether another token follows."""


@dataclass(eq=False)
class Row:
    """An answer and the model that generates it."""

    answer: Answer
    source: ModelSource


class Batch:
    """Answers in the rows of one key-value cache. Rows join and leave between any two tokens."""

    def __init__(self, base: LoadedBase, draw: Draw) -> None:
        self._base, self._draw = base, draw
        self._cache = KeyValueCache(np.zeros(0, np.int64), 0, base.device)
        self.rows: list[Row] = []

    @property
    def longest(self) -> int:
        """Tokens of the longest row. Every row takes this much room in the cache."""
        return max((len(row.answer.tokens) for row in self.rows), default=0)

    @torch.no_grad()
    def join(self, rows: Sequence[Row]) -> None:
        """Add rows of one model, and draw the next token of each."""
        (source,) = {row.source for row in rows}
        self.rows += rows
        logits_R_V = self._read(self._base.rows([source]), rows)
        self._draw_tokens(rows, logits_R_V)

    @torch.no_grad()
    def step(self) -> None:
        """Draw the next token of each row."""
        token_B = torch.tensor([row.answer.tokens[-1] for row in self.rows], device=self._base.device)
        network = self._base.rows([row.source for row in self.rows])
        logits_B_V = head_of(network)(token_pass(network, token_B, self._cache))
        self._draw_tokens(self.rows, logits_B_V)

    def keep(self, stays: Callable[[Row], bool]) -> None:
        """Keep the rows for which `stays` is true, and drop the others."""
        kept_B = np.array([stays(row) for row in self.rows], bool)
        if not kept_B.all():
            self.rows = [self.rows[index] for index in self._cache.keep(kept_B)]

    def _read(self, network: PreTrainedModel, rows: Sequence[Row]) -> torch.Tensor:
        """Fill the cache with the rows' tokens, and compute equal prompts only once. Return the logits [R, V] of each
        row's next token: R rows, V tokens of the vocabulary."""
        numbers: dict[tuple[int, ...], int] = {}
        owners = [numbers.setdefault(tuple(row.answer.tokens), len(numbers)) for row in rows]
        lengths = [len(tokens) for tokens in numbers]
        places = self._cache.add(np.array([lengths[owner] for owner in owners])).tolist()
        hidden_N_D = prompts_pass(
            network,
            torch.tensor([[token for tokens in numbers for token in tokens]], device=self._base.device),
            torch.cat([torch.arange(length) for length in lengths])[None].to(self._base.device),
            Segments.of(lengths, self._base.device),
            PackedPrompts(self._cache, lengths, owners, places),
        )
        last = np.cumsum(lengths)[owners] - 1
        logits_R_V: torch.Tensor = head_of(network)(hidden_N_D[last.tolist()])
        return logits_R_V

    def _draw_tokens(self, rows: Sequence[Row], logits_R_V: torch.Tensor) -> None:
        done = {row for row, logits_V in zip(rows, logits_R_V, strict=True) if not self._draw(row, logits_V)}
        self.keep(lambda row: row not in done)
