"""Generation of answers for families that support packed rows: one pass over the prompts, then one for each token."""

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager

import numpy as np
import torch

from api.estimate.memory import CHUNK_LOGITS
from worker.engine.generation.cached_passes import prompts_pass, token_pass
from worker.engine.generation.key_value_cache import CACHED, Indices, KeyValueCache, PackedPrompts
from worker.engine.generation.token_draws import TokenArray, TokenDraws
from worker.engine.model.attention import sent
from worker.engine.model.batches import micro_batches
from worker.engine.model.families import head_of
from worker.engine.model.trainable import TrainableModel
from worker.shared.arrays import rows_of


@torch.no_grad()
def decode(
    model: TrainableModel,
    prompts: Sequence[TokenArray],
    rows_R: Indices,
    draws: TokenDraws,
    *,
    max_tokens: int,
    end_tokens: Set[int],
    budget_tokens: int,
) -> list[TokenArray]:
    """Return an answer to each of R prompts, computed as one batch. Equal prompts are computed once, and an answer
    leaves the batch when it has ended.

    rows_R: the index of each answer in `draws`. budget_tokens: the maximum number of prompt tokens in one pass.
    """
    lengths_R = np.array([len(prompt) for prompt in prompts])
    answers_R_T, counts_R = np.zeros((len(prompts), max_tokens), np.int32), np.full(len(prompts), max_tokens)
    cache = KeyValueCache(lengths_R, int(lengths_R.max()) + max_tokens, model.device)
    hidden_B_D = _prompts_pass(model, prompts, cache, budget_tokens)
    answer_B = np.arange(len(prompts))  # the answer that each row of the batch continues
    row_B = sent(torch.from_numpy(rows_R), model.device)
    with _cached_attention(model):
        for position in range(max_tokens):
            token_B = _next_tokens(model, hidden_B_D, draws, row_B, position)
            drawn_B = token_B.cpu().numpy()
            answers_R_T[answer_B, position] = drawn_B
            ended_B = np.isin(drawn_B, list(end_tokens))
            if ended_B.any():
                counts_R[answer_B[ended_B]] = position + 1
                order_B = cache.keep(~ended_B)
                kept_B = sent(torch.from_numpy(order_B), model.device)
                answer_B, row_B, token_B = answer_B[order_B], row_B[kept_B], token_B[kept_B]
            if position + 1 == max_tokens or not len(answer_B):
                break
            model.keep_alive()
            hidden_B_D = token_pass(model.network, token_B, cache)
    return [answer_T[:count] for answer_T, count in zip(answers_R_T, counts_R, strict=True)]


def _prompts_pass(
    model: TrainableModel, prompts: Sequence[TokenArray], cache: KeyValueCache, budget_tokens: int
) -> torch.Tensor:
    """Fill the cache with the prompts. Return the hidden state [R, D] of each prompt's last token."""
    numbers: dict[bytes, int] = {}
    number_R = np.array([numbers.setdefault(prompt.tobytes(), len(numbers)) for prompt in prompts])
    distinct = rows_of([np.frombuffer(prompt, np.int32) for prompt in numbers])
    found: list[torch.Tensor] = []
    found_rows: list[int] = []
    for batch in micro_batches(distinct, budget_tokens, model.layout, model.device):
        model.keep_alive()
        assert batch.segments is not None, "the prompts are packed"
        place = {number: index for index, number in enumerate(batch.rows.tolist())}
        rows = [row for row, number in enumerate(number_R) if number in place]
        owners = [place[number_R[row]] for row in rows]
        filled = PackedPrompts(cache, batch.segments.lengths, owners, rows)
        hidden_N_D = prompts_pass(model.network, batch.tokens, batch.positions, batch.segments, filled)
        last = batch.last.index_select(0, sent(torch.tensor(owners), model.device))
        found.append(hidden_N_D.index_select(0, last))
        found_rows += rows
    order_R = sent(torch.from_numpy(np.argsort(found_rows)), model.device)
    return torch.cat(found).index_select(0, order_R)


def _next_tokens(
    model: TrainableModel, hidden_B_D: torch.Tensor, draws: TokenDraws, row_B: torch.Tensor, position: int
) -> torch.Tensor:
    """Return the next token of each row, [B]. To save memory, logits are computed for a chunk of rows at a time."""
    head, chunk = head_of(model.network), max(1, CHUNK_LOGITS // model.vocabulary)
    starts = range(0, len(hidden_B_D), chunk)
    return torch.cat([draws(head(hidden_B_D[at : at + chunk]), row_B[at : at + chunk], position) for at in starts])


@contextmanager
def _cached_attention(model: TrainableModel) -> Iterator[None]:
    attention = model.network.config._attn_implementation
    model.network.set_attn_implementation(CACHED)
    try:
        yield
    finally:
        model.network.set_attn_implementation(attention)
