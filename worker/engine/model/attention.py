"""Attention over packed rows: several examples in one row of tokens, each attending only to itself.

Sequences that begin with the same prompt may share its tokens: the prompt is one segment of the row, and each
continuation is another one, whose tokens also attend to those of the prompt.

`packed_attention` is registered with transformers' `AttentionInterface`. transformers builds no mask for an attention
without a mask function, so causality, windows and the borders between examples are decided here only. The function
raises for arguments that it does not implement: ignoring them would compute wrong attention silently.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from worker.engine.model.blockwise_attention import Rule, attend, blockwise_attention
from worker.engine.model.products import faster_type
from worker.engine.model.short_attention import short_attention
from worker.shared.gpus import BFLOAT16_CAPABILITY

PACKED = "attune_packed"

MATMUL_LENGTH = 256
"""Up to this many tokens, plain matmuls are faster than the CPU's fused kernel, although they keep the attention
weights for the backward pass (docs/engine-log.md)."""
SHORT_LENGTH = {torch.bfloat16: 1024}
"""By type, the same limit for a backward pass that recomputes the attention weights instead of keeping them. It is
higher in bfloat16, because the fused kernel's backward pass is slow in that type."""
FLASH_LONGEST_HEAD = 256
FUSED_MULTIPLE = 8
"""The GPU's fused kernels need head sizes that are a multiple of this."""
PADDING = 1.25
"""Neighboring examples share a block if the longest of them has at most this many times the tokens of the shortest."""

HARMLESS = frozenset({"position_ids", "use_cache", "output_attentions", "output_hidden_states"})
"""Arguments without an effect here: positions are already in the embeddings, and nothing is cached."""


@dataclass(frozen=True)
class Group:
    """Neighboring segments of similar length: tokens [start, end) of the packed row, laid out as a block [B, T]. Each
    continues a prompt of `before` tokens (0: none)."""

    start: int
    end: int
    shape: tuple[int, int]
    padded: torch.Tensor | None
    """[B * T]: the index of each position's token, counted from `start`. Padding repeats a segment's last token. None
    if there is no padding."""
    real: torch.Tensor | None
    """[n]: the positions of the block that are not padding. None if there is no padding."""
    before: int = 0
    keys: torch.Tensor | None = None
    """[B * (before + T)]: the indices in the packed row of the tokens that each segment attends to: those of its prompt
    and its own. None if no segment continues a prompt."""


@dataclass(frozen=True)
class Keys:
    """The tokens that each segment attends to, one segment after the other, as the varlen kernel takes them."""

    indices: torch.Tensor
    """[K]: their indices in the packed row."""
    borders: torch.Tensor
    """i32 [segments + 1]: cumulative numbers of keys."""
    longest: int


@dataclass(frozen=True)
class Segments:
    """The segments of one packed row: whole examples, prompts, and continuations of prompts."""

    lengths: tuple[int, ...]
    borders: torch.Tensor
    """i32 [segments + 1]: cumulative lengths, as the varlen kernel takes them."""
    prompts: tuple[range, ...] = ()
    """For each segment, the tokens of the row that it continues: an empty range for a segment that begins an example.
    An empty tuple if no segment continues another one."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device, prompts: Sequence[range] = ()) -> "Segments":
        return cls(tuple(lengths), _borders(lengths, device), tuple(prompts))

    @cached_property
    def groups(self) -> list[Group]:
        """The segments in groups of similar length and equally long prompts. The varlen kernel does not need groups."""
        prompts = self.prompts or (range(0),) * len(self.lengths)
        groups: list[list[int]] = []
        for segment, length in enumerate(self.lengths):
            together = [self.lengths[other] for other in groups[-1]] if groups else []
            similar = together and max(*together, length) <= PADDING * min(*together, length)
            if similar and len(prompts[groups[-1][0]]) == len(prompts[segment]):
                groups[-1].append(segment)
            else:
                groups.append([segment])
        device, start, found = self.borders.device, 0, []
        for group in groups:
            found.append(
                _group(start, [self.lengths[each] for each in group], [prompts[each] for each in group], device)
            )
            start = found[-1].end
        return found

    @cached_property
    def keys(self) -> Keys | None:
        """The keys of all segments; None if each attends to its own tokens only."""
        if not self.prompts:
            return None
        ends = np.cumsum(self.lengths).tolist()
        parts: list[range] = []
        for prompt, length, end in zip(self.prompts, self.lengths, ends, strict=True):
            parts += [prompt, range(end - length, end)]
        indices = np.concatenate([np.arange(part.start, part.stop) for part in parts])
        counts = [len(prompt) + length for prompt, length in zip(self.prompts, self.lengths, strict=True)]
        device = self.borders.device
        return Keys(sent(torch.from_numpy(indices), device), _borders(counts, device), max(counts))


def _borders(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    return sent(torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32), device)


def _group(start: int, lengths: list[int], prompts: list[range], device: torch.device) -> Group:
    shape, end, before = (len(lengths), max(lengths)), start + sum(lengths), len(prompts[0])
    lengths_B = torch.tensor(lengths)
    starts_B = lengths_B.cumsum(0) - lengths_B
    offsets_T = torch.arange(shape[1])
    padded_B_T = starts_B[:, None] + torch.minimum(offsets_T, lengths_B[:, None] - 1)
    keys = None
    if before:
        prompts_B_P = torch.tensor([list(prompt) for prompt in prompts])
        keys = sent(torch.cat([prompts_B_P, start + padded_B_T], dim=1).flatten(), device)
    if min(lengths) == max(lengths):
        return Group(start, end, shape, None, None, before, keys)
    real_N = (offsets_T < lengths_B[:, None]).flatten().nonzero().flatten()
    return Group(start, end, shape, sent(padded_B_T.flatten(), device), sent(real_N, device), before, keys)


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a copy of a host tensor on the device. The host does not wait for the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    segments: Segments | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Return causal attention within each example. query [1, H, N, D], key and value [1, KV, N, D] → [1, N, H, D].

    sliding_window w: a token sees itself and the w - 1 before it (transformers' convention).
    softcap c: scores become c tanh(score / c) (Gemma 2, arXiv:2408.00118).
    """
    if unknown := {name for name, argument in others.items() if argument is not None} - HARMLESS:
        raise NotImplementedError(f"packed attention does not implement {', '.join(sorted(unknown))}")
    if attention_mask is not None or dropout != 0.0 or not getattr(module, "is_causal", True):
        raise NotImplementedError("packed attention is causal, without masks and dropout")
    if segments is None:
        raise ValueError(
            "the model did not pass the argument `segments` on to its attention: remove its family from PACKED_FAMILIES"
        )
    assert query.shape[::2] == (1, sum(segments.lengths)), f"{query.shape} is not one row of {segments.lengths}"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query_N, key_N, value_N = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [N, heads, D]
    if query.is_cuda and softcap is None and flash_runs(query, torch.cuda.get_device_capability(query.device)):
        return _varlen(query_N, key_N, value_N, segments, scale, sliding_window)[None], None
    blocks = []
    for group in segments.groups:
        query_B = _lay_out(query_N, group)
        key_B, value_B = (_keys(states, group) for states in (key_N, value_N))
        # A window longer than the examples is dropped, so that the fused kernels can be used.
        within = sliding_window is not None and sliding_window < group.before + group.shape[1]
        rule = Rule(scale, sliding_window if within else None, softcap)
        blocks.append(_take(_block_attention(query_B, key_B, value_B, rule), group))
    return torch.cat(blocks)[None], None


def flash_runs(query: torch.Tensor, capability: tuple[int, int]) -> bool:
    """Return whether FlashAttention supports these queries on a GPU of this compute capability. Unlike
    scaled_dot_product_attention, the varlen operator has no other kernel to fall back to."""
    head = query.shape[-1]
    halves = query.dtype in (torch.bfloat16, torch.float16)
    return capability >= BFLOAT16_CAPABILITY and halves and head <= FLASH_LONGEST_HEAD and head % FUSED_MULTIPLE == 0


def _varlen(
    query_N_H_D: torch.Tensor,
    key_N_KV_D: torch.Tensor,
    value_N_KV_D: torch.Tensor,
    segments: Segments,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    # The kernel aligns the last query of a segment with its last key.
    longest, borders, keys = max(segments.lengths), segments.borders, segments.keys
    if keys is not None:
        key_N_KV_D, value_N_KV_D = (states.index_select(0, keys.indices) for states in (key_N_KV_D, value_N_KV_D))
    attended = varlen_attn(
        query_N_H_D,
        key_N_KV_D,
        value_N_KV_D,
        borders,
        borders if keys is None else keys.borders,
        longest,
        longest if keys is None else keys.longest,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query_N_H_D.shape[1] != key_N_KV_D.shape[1],
    )
    assert isinstance(attended, torch.Tensor)
    return attended


def _lay_out(states_N: torch.Tensor, group: Group) -> torch.Tensor:
    """Return the group's block [B, heads, T, D], taken from all tokens [N, heads, D]."""
    tokens = states_N[group.start : group.end]
    if group.padded is not None:
        tokens = tokens.index_select(0, group.padded)
    return tokens.view(*group.shape, *tokens.shape[1:]).transpose(1, 2)


def _keys(states_N: torch.Tensor, group: Group) -> torch.Tensor:
    """Return the keys or values [B, heads, before + T, D] that the group's segments attend to."""
    if group.keys is None:
        return _lay_out(states_N, group)
    tokens = states_N.index_select(0, group.keys)
    return tokens.view(group.shape[0], -1, *tokens.shape[1:]).transpose(1, 2)


def _take(attended_B_H_T_D: torch.Tensor, group: Group) -> torch.Tensor:
    """Return the tokens [n, H, D] in the group's block [B, H, T, D], without the padding."""
    tokens = attended_B_H_T_D.transpose(1, 2).flatten(0, 1)
    return tokens if group.real is None else tokens.index_select(0, group.real)


def _block_attention(
    query_B_H_T_D: torch.Tensor, key_B_KV_K_D: torch.Tensor, value_B_KV_K_D: torch.Tensor, rule: Rule
) -> torch.Tensor:
    """Return the attention [B, H, T, D] of a block: of the last T of K tokens. No path keeps K² scores or a K² mask for
    long sequences: for 32,768 tokens they would take 4 GiB for each head and layer."""
    H, T, D = query_B_H_T_D.shape[1:]
    KV, K = key_B_KV_K_D.shape[1:3]
    on_gpu = query_B_H_T_D.is_cuda
    plain = rule.softcap is None and rule.window is None
    dtype = faster_type(query_B_H_T_D)
    longest = SHORT_LENGTH.get(dtype, MATMUL_LENGTH)
    if plain and not on_gpu and longest >= K:
        return short_attention(query_B_H_T_D, key_B_KV_K_D, value_B_KV_K_D, rule.scale, keep=K <= MATMUL_LENGTH)
    if dtype != query_B_H_T_D.dtype:
        wide = _block_attention(query_B_H_T_D.to(dtype), key_B_KV_K_D.to(dtype), value_B_KV_K_D.to(dtype), rule)
        return wide.to(query_B_H_T_D.dtype)
    if K <= MATMUL_LENGTH and not (on_gpu and rule.softcap is None):
        return attend(query_B_H_T_D, key_B_KV_K_D, value_B_KV_K_D, _hidden(T, K, rule, query_B_H_T_D.device), rule)
    if not plain or T != K or (on_gpu and D % FUSED_MULTIPLE):
        return blockwise_attention(query_B_H_T_D, key_B_KV_K_D, value_B_KV_K_D, rule)
    if on_gpu and KV != H:
        # The fused kernel for float32 supports no shared key heads: torch would compute T² scores instead.
        key_B_KV_K_D, value_B_KV_K_D = (each.repeat_interleave(H // KV, 1) for each in (key_B_KV_K_D, value_B_KV_K_D))
    return functional.scaled_dot_product_attention(
        query_B_H_T_D,
        key_B_KV_K_D,
        value_B_KV_K_D,
        is_causal=True,
        scale=rule.scale,
        enable_gqa=key_B_KV_K_D.shape[1] != H,
    )


@lru_cache(maxsize=64)
def _hidden(queries: int, keys: int, rule: Rule, device: torch.device) -> torch.Tensor:
    """Return the mask [queries, keys] of the last of at most MATMUL_LENGTH tokens. The cache holds a few megabytes."""
    return rule.hidden(range(keys - queries, keys), range(keys), device)


AttentionInterface.register(PACKED, packed_attention)
