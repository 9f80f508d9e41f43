"""Attention of short sequences with its own backward pass: it is the plain one's."""

import pytest
import torch

from worker.engine.model import products
from worker.engine.model import short_attention as short
from worker.engine.model.attention import Segments
from worker.engine.model.blockwise_attention import Rule, attend
from worker.engine.model.short_attention import short_attention


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("block", [1, 7, 128])
@pytest.mark.parametrize("queries", [1, 9, 40])
def test_it_and_its_gradients_are_those_of_the_plain_attention(
    queries: int, block: int, keep: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(seed)
    monkeypatch.setattr(short, "BLOCK", block)
    shapes = [(2, 4, queries, 6), (2, 2, 40, 6), (2, 2, 40, 5)]
    states = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    outer = torch.randn(2, 4, queries, 5, dtype=torch.float64)
    found = short_attention(states[0], states[1], states[2], 0.3, keep=keep)
    rule = Rule(0.3)
    hidden = rule.hidden(range(40 - queries, 40), range(40), outer.device)
    expected = attend(states[0], states[1], states[2], hidden, rule)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # the plain one's softmax is in float32
    for ours, theirs in zip(
        torch.autograd.grad(found, states, outer), torch.autograd.grad(expected, states, outer), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("keep", [True, False])
def test_bfloat16_is_near_the_exact_result(keep: bool, fast: bool, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(seed)
    monkeypatch.setattr(products, "cpu_trains_in_bfloat16", lambda: fast)
    states = [torch.randn(2, heads, 150, 8, dtype=torch.bfloat16, requires_grad=True) for heads in (4, 2, 2)]
    exact = [each.detach().double().requires_grad_() for each in states]
    outer = torch.randn(2, 4, 150, 8, dtype=torch.bfloat16)
    found = short_attention(states[0], states[1], states[2], 0.3, keep=keep)
    expected = short_attention(exact[0], exact[1], exact[2], 0.3, keep=keep)
    grads = torch.autograd.grad(found, states, outer), torch.autograd.grad(expected, exact, outer.double())
    for ours, theirs in zip((found, *grads[0]), (expected, *grads[1]), strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - theirs).norm() <= 2**-7 * theirs.norm()


def test_no_later_token_counts(seed: int) -> None:
    torch.manual_seed(seed)
    states = [torch.randn(1, 2, 300, 4) for _ in range(3)]
    before = short_attention(states[0], states[1], states[2], 0.5, keep=False)
    for each in states:
        each[:, :, 200:] = torch.randn(1, 2, 100, 4)
    after = short_attention(states[0], states[1], states[2], 0.5, keep=False)
    torch.testing.assert_close(after[:, :, :200], before[:, :, :200], rtol=0, atol=1e-6)
    assert not torch.equal(after[:, :, 200:], before[:, :, 200:])


def test_groups_are_laid_out_only_for_attention_that_needs_them() -> None:
    segments = Segments.of([3, 9, 10], torch.device("cpu"))
    assert "groups" not in vars(segments)
    assert [group.shape for group in segments.groups] == [(1, 3), (2, 10)]
    assert segments.groups is segments.groups
