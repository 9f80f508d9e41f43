"""The size of the comparison of base and tuned model."""

import pytest

from api.spec.evaluation import COMPARED_ROWS, COMPARED_TRAINING_ROWS, ComparisonLimits


def limits(rows: int, *, rollouts: bool = False, validates: bool = True) -> ComparisonLimits:
    return ComparisonLimits.of(trained_rows=rows, mean_tokens=100.0, validates=validates, rollouts=rollouts)


@pytest.mark.parametrize(
    ("trained_rows", "tokens", "answer_tokens"),
    [(10, 384, 8), (160, 384, 8), (1_600, 2_400, 45), (1_000_000, 32_768, 64)],
)
def test_a_comparison_grows_with_its_training_between_bounds(
    trained_rows: int, tokens: int, answer_tokens: int
) -> None:
    found = limits(trained_rows)
    assert (found.tokens, found.answer_tokens) == (tokens, answer_tokens)


@pytest.mark.parametrize(("trained_rows", "prompts"), [(10, 4), (200, 10), (10_000, 16)])
def test_sampled_answers_are_compared_on_a_share_of_the_prompts(trained_rows: int, prompts: int) -> None:
    assert limits(trained_rows, rollouts=True).rows == prompts


def test_training_rows_prove_less_and_are_fewer() -> None:
    assert (limits(10).rows, limits(10, validates=False).rows) == (COMPARED_ROWS, COMPARED_TRAINING_ROWS)
