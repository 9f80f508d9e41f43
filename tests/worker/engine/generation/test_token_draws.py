"""Draws of tokens."""

import pytest
import torch

from worker.engine.generation.token_draws import draw


def test_every_token_is_drawn_as_often_as_its_probability(seed: int) -> None:
    """Uniform numbers at equal distances meet each token's share of [0, 1), to one number at either end."""
    torch.manual_seed(seed)
    logits_V, count = 3 * torch.randn(50), 20_000
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    drawn = draw(logits_V.expand(count, -1), uniforms, temperature=0.7).bincount(minlength=50)
    expected = count * (logits_V.double() / 0.7).softmax(-1)
    assert (drawn - expected).abs().max() <= 1.01


@pytest.mark.parametrize("more", [0, 1000])
def test_impossible_tokens_are_never_drawn(more: int) -> None:
    logits_V = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, *[-torch.inf] * (1 + more)])
    uniforms = torch.tensor([0.0, 0.4999, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    assert draw(logits_V.expand(4, -1), uniforms, temperature=1.0).tolist() == [1, 1, 3, 3]


def test_a_token_of_a_large_vocabulary_is_the_first_whose_cumulative_probability_exceeds_the_number(seed: int) -> None:
    torch.manual_seed(seed)
    logits_B_V = (3 * torch.randn(64, 5003)).bfloat16()
    uniforms_B = torch.rand(64, dtype=torch.float64)
    cumulative_B_V = logits_B_V.double().softmax(-1).cumsum(-1)
    # Where rounding the probabilities to float32 decides, both neighbors are right.
    low, high = (torch.searchsorted(cumulative_B_V, (uniforms_B + by)[:, None])[:, 0] for by in (-1e-6, 1e-6))
    tokens_B = draw(logits_B_V, uniforms_B, temperature=1.0)
    assert ((low <= tokens_B) & (tokens_B <= high)).all()


def test_a_model_that_diverged_draws_some_token() -> None:
    tokens_B = draw(torch.full((3, 300), torch.nan), torch.tensor([0.0, 0.5, 0.99], dtype=torch.float64), 1.0)
    assert ((tokens_B >= 0) & (tokens_B < 300)).all()
