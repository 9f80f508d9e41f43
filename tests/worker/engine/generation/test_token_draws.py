"""Draws of tokens."""

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


def test_impossible_tokens_are_never_drawn() -> None:
    logits_V = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf])
    uniforms = torch.tensor([0.0, 0.4999, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    assert draw(logits_V.expand(4, -1), uniforms, temperature=1.0).tolist() == [1, 1, 3, 3]
