import pytest
import torch

from worker.sampling.token_sampler import TokenSampler, nucleus

LOGITS_V = torch.tensor([1.0, 3.0, 2.0, -1.0])


def draws(seed: int | None, count: int = 50, temperature: float = 1.0, top_p: float = 1.0) -> list[int]:
    sample = TokenSampler(temperature=temperature, top_p=top_p, seed=seed, top_logprobs=None)
    return [sample(LOGITS_V).id for _ in range(count)]


def test_temperature_zero_takes_the_likeliest() -> None:
    assert draws(None, temperature=0.0) == [1] * 50


def test_a_seed_repeats_itself_and_another_does_not() -> None:
    assert draws(7) == draws(7)
    assert draws(7) != draws(8)
    assert draws(None) != draws(None)


def test_a_tiny_temperature_is_greedy_and_divides_nothing_into_infinity() -> None:
    assert draws(0, temperature=1e-30) == [1] * 50


def test_tokens_come_as_often_as_the_tempered_distribution_says() -> None:
    counts_V = torch.bincount(torch.tensor(draws(3, count=20_000, temperature=2.0)), minlength=4)
    expected_V = torch.softmax(LOGITS_V / 2, dim=-1)
    assert torch.allclose(counts_V / 20_000, expected_V, atol=0.015)


def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p() -> None:
    chances_V = torch.tensor([0.1, 0.5, 0.3, 0.1])
    assert nucleus(chances_V, 0.5).nonzero().flatten().tolist() == [1]
    assert nucleus(chances_V, 0.51).nonzero().flatten().tolist() == [1, 2]
    assert set(draws(1, top_p=0.7, count=200)) == {1, 2}


def test_logprobs_are_those_of_the_models_own_distribution() -> None:
    drawn = TokenSampler(temperature=0.5, top_p=0.9, seed=0, top_logprobs=2)(LOGITS_V)
    logprobs_V = torch.log_softmax(LOGITS_V, dim=-1)
    assert drawn.logprob == float(logprobs_V[drawn.id])
    assert drawn.top == ((1, float(logprobs_V[1])), (2, float(logprobs_V[2])))


class Alternating:
    """Allows tokens 0 and 3 in turn, two of them."""

    def __init__(self) -> None:
        self.accepted: list[int] = []

    @property
    def complete(self) -> bool:
        return len(self.accepted) == 2

    def limit(self, logits_V: torch.Tensor) -> torch.Tensor:
        allowed = 3 if self.accepted else 0
        return torch.full_like(logits_V, -torch.inf).index_copy(0, torch.tensor([allowed]), logits_V[[allowed]])

    def accept(self, token_id: int) -> None:
        self.accepted.append(token_id)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_constraint_decides_what_is_drawn_and_logprobs_stay_the_models(temperature: float) -> None:
    sample = TokenSampler(temperature=temperature, top_p=0.9, seed=0, top_logprobs=1, constraint=Alternating())
    drawn = [sample(LOGITS_V), sample(LOGITS_V)]
    assert [token.id for token in drawn] == [0, 3]
    assert sample.complete
    assert drawn[0].logprob == float(torch.log_softmax(LOGITS_V, dim=-1)[0])
    assert (drawn[0].top or ())[0][0] == 1, "the likeliest, which was not allowed"
