"""Attention without T² scores: it is the plain one's, and nothing of that size is ever made."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from api.estimate.work import PACKED_FAMILIES
from tests.worker.losses import as_rows, trainer_loss
from tests.worker.run_folders import random_rows
from worker.engine.model import attention
from worker.engine.model import blockwise_attention as blockwise
from worker.engine.model.attention import Segments, flash_runs, packed_attention
from worker.engine.model.batches import Layout, micro_batches
from worker.engine.model.blockwise_attention import Rule, attend, blocks, blockwise_attention
from worker.engine.model.families import keeps_scores
from worker.engine.model.load import checked_config
from worker.engine.model.modes import without_dropout
from worker.engine.model.trainable import TrainableModel

RULES = [Rule(0.3), Rule(0.3, window=5), Rule(0.3, softcap=2.0), Rule(0.3, window=9, softcap=2.0)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scores", [1, 300, 4000])
def test_it_is_the_plain_attention_and_so_are_its_gradients(
    rule: Rule, scores: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(seed)
    monkeypatch.setattr(blockwise, "BLOCK_SCORES", scores)
    states = [torch.randn(2, heads, 40, 6, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2)]
    outer = torch.randn(2, 4, 40, 6, dtype=torch.float64)
    found = blockwise_attention(states[0], states[1], states[2], rule)
    places = range(40)
    expected = attend(states[0], states[1], states[2], rule.hidden(places, places, outer.device), rule)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # its softmax is in float32
    for ours, theirs in zip(
        torch.autograd.grad(found, states, outer), torch.autograd.grad(expected, states, outer), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 1, 64, 4096, 1 << 20])
@pytest.mark.parametrize("length", [1, 500, 32768])
@pytest.mark.parametrize("rows", [1, 32])
def test_blocks_see_every_key_that_they_may_and_hold_few_scores(length: int, rows: int, window: int | None) -> None:
    found = list(blocks(length, rows, window))
    assert [query for queries, _ in found for query in queries] == list(range(length))
    for queries, keys in found:
        assert (keys.start, keys.stop) == (max(0, queries.start - (window or length) + 1), queries.stop)
        assert rows * len(queries) * len(keys) <= blockwise.BLOCK_SCORES
    computed = sum(rows * len(queries) * len(keys) for queries, keys in found)
    assert len(found) <= 2 + 2 * computed / blockwise.BLOCK_SCORES, "they are no smaller than they must be"


class Largest(TorchDispatchMode):
    """The most numbers in one tensor that anything made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(each, torch.Tensor):
                self.numbers = max(self.numbers, each.numel())
        return made


@pytest.mark.parametrize("family", sorted(PACKED_FAMILIES - {"gpt2"}))  # whose tiny model has 128 positions
def test_a_long_row_makes_nothing_of_its_square(
    family: str, bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    length = 700
    monkeypatch.setattr(blockwise, "BLOCK_SCORES", 1 << 17)
    rows = as_rows(tmp_path, random_rows(1, seed=seed, shortest=length, longest=length))
    with Largest() as largest:
        trainer_loss(bases[family], rows)
    assert length < largest.numbers < length**2


@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_no_kind_of_attention_makes_anything_of_the_square(
    window: int | None, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = 1500
    monkeypatch.setattr(blockwise, "BLOCK_SCORES", 1 << 17)
    states = [torch.randn(1, heads, length, 8, requires_grad=True) for heads in (2, 1, 1)]
    segments = Segments.of([length], states[0].device)
    attention._hidden.cache_clear()
    with Largest() as largest:
        found, _ = packed_attention(
            torch.nn.Module(), states[0], states[1], states[2], None,
            segments=segments, sliding_window=window, softcap=softcap,
        )  # fmt: skip
        found.sum().backward()
    assert largest.numbers < length**2 / 4
    assert attention._hidden.cache_info().currsize == 0, "no mask of a long row is kept"


@pytest.mark.parametrize(
    ("dtype", "head", "capability", "runs"),
    [
        (torch.bfloat16, 128, (9, 0), True),
        (torch.bfloat16, 256, (8, 0), True),
        (torch.float16, 64, (8, 6), True),
        (torch.bfloat16, 128, (7, 5), False),
        (torch.float32, 128, (9, 0), False),
        (torch.bfloat16, 288, (9, 0), False),
        (torch.bfloat16, 100, (9, 0), False),
    ],
)
def test_flash_attention_is_asked_only_for_what_it_does(
    dtype: torch.dtype, head: int, capability: tuple[int, int], runs: bool
) -> None:
    assert flash_runs(torch.empty(1, 2, 3, head, dtype=dtype), capability) is runs


@pytest.mark.parametrize("fused", [True, False])
def test_what_a_padded_row_keeps_of_its_square_is_what_the_estimate_counts(
    fused: bool, bases: dict[str, Path], tmp_path: Path, seed: int
) -> None:
    """Falcon H1 has fused attention; Gemma 2, whose rows are padded under some techniques, has none."""
    family, length = ("falcon_h1", 90) if fused else ("gemma2", 90)
    config = checked_config(bases[family])
    assert keeps_scores(config) is not fused
    # Two lengths, because rows without padding have no mask to keep.
    texts = [random_rows(1, seed=seed, shortest=each, longest=each) for each in (length - 5, length)]
    rows = as_rows(tmp_path, texts[0] + texts[1])
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        longest = int(rows.lengths.max())
        if tensor.dim() == 4 and tensor.shape[2] >= longest and tensor.shape[3] >= longest:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    model = AutoModelForCausalLM.from_pretrained(bases[family], dtype=torch.float32)
    without_dropout(model)
    trainable = TrainableModel(model, Layout(packed=False))
    (batch,) = micro_batches(rows, 10_000, trainable.layout, trainable.device)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        scores = trainable.token_scores(batch)
    longest, layers = int(rows.lengths.max()), config.num_hidden_layers
    each = 4 if fused else 4 + config.num_attention_heads * 8
    counted = each * 2 * longest**2 * layers
    assert scores.smoothed_logprobs.requires_grad
    assert 0.5 * counted <= sum(kept.values()) <= counted
