"""Packed rows must train exactly as single examples do. A family is packed only because it is shown here."""

from pathlib import Path
from typing import Any

import pytest
import torch

from api.estimate.work import PACKED_FAMILIES
from tests.tiny_models import FAMILIES, WINDOW
from tests.worker.losses import as_rows, plain_loss, trainer_loss, worst_difference
from tests.worker.run_folders import docstring_rows, random_rows
from worker.engine.model.attention import Segments, packed_attention
from worker.engine.model.batches import Layout, micro_batches, plan, total_weight
from worker.engine.model.trainable import TrainableModel
from worker.shared.arrays import Rows


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_batch_has_the_loss_and_gradients_of_its_examples_one_by_one(
    family: str, bases: dict[str, Path], tmp_path: Path, seed: int
) -> None:
    rows = as_rows(tmp_path, random_rows(7, seed=seed, shortest=3, longest=4 * WINDOW))
    loss, gradients, _ = trainer_loss(bases[family], rows)
    expected_loss, expected = plain_loss(bases[family], rows)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert worst_difference(gradients, expected) < 1e-5


def test_every_packed_family_is_among_those_tested() -> None:
    assert FAMILIES.keys() >= PACKED_FAMILIES


def test_a_hybrid_family_takes_the_padded_path(bases: dict[str, Path], tmp_path: Path, seed: int) -> None:
    rows = as_rows(tmp_path, random_rows(3, seed=seed))
    _, _, model = trainer_loss(bases["falcon_h1"], rows)
    assert not model.layout.packed


def test_the_real_model_packed_equals_one_by_one(smollm2: Path, tmp_path: Path, seed: int) -> None:
    # Real text: its hidden states reach 20,000 at a few places, and with nonsense for input transformers' own two
    # attentions differ by more than the bound.
    rows = as_rows(tmp_path, docstring_rows(smollm2, 6, seed=seed))
    loss, gradients, _ = trainer_loss(smollm2, rows)
    expected_loss, expected = plain_loss(smollm2, rows)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    # Most rows give 2e-6 to 4e-6; of some rows transformers' own sums are that far off in float32.
    assert worst_difference(gradients, expected) < 3e-5


@pytest.mark.parametrize("family", ["llama", "falcon_h1"])
def test_how_a_batch_is_cut_into_micro_batches_changes_nothing(
    family: str, bases: dict[str, Path], tmp_path: Path, seed: int
) -> None:
    rows = as_rows(tmp_path, random_rows(9, seed=seed))
    whole, gradients, _ = trainer_loss(bases[family], rows)
    cut, cut_gradients, _ = trainer_loss(bases[family], rows, budget_tokens=25)
    assert cut == pytest.approx(whole, rel=1e-6)
    assert worst_difference(cut_gradients, gradients) < 1e-5


def test_windows_and_caps_change_the_loss_here_so_that_ignoring_them_would_show(
    bases: dict[str, Path], tmp_path: Path, seed: int
) -> None:
    rows = as_rows(tmp_path, random_rows(5, seed=seed, shortest=3 * WINDOW, longest=4 * WINDOW))
    for family, option in (("mistral", "sliding_window"), ("gemma2", "attn_logit_softcapping")):
        loss, _, model = trainer_loss(bases[family], rows)
        for layer in model.network.get_decoder().layers:
            setattr(layer.self_attn, option, None)
        setattr(model.network.config, option, None)
        batch_loss = _loss(model, rows)
        assert abs(batch_loss - loss) > 1e-4, family


@pytest.mark.parametrize("window", [None, 5, 290, 400])
@pytest.mark.parametrize("lengths", [[300, 7, 7, 290], [1, 2, 3], [40]])
def test_attention_is_that_of_each_example_alone(lengths: list[int], window: int | None, seed: int) -> None:
    torch.manual_seed(seed)
    query, key, value = (torch.randn(1, heads, sum(lengths), 8) for heads in (4, 2, 2))
    segments = Segments.of(lengths, query.device)
    found, _ = packed_attention(torch.nn.Module(), query, key, value, None, segments=segments, sliding_window=window)
    at = 0
    for length in lengths:
        alone = [
            states[:, :, at : at + length].repeat_interleave(4 // states.shape[1], 1) for states in (query, key, value)
        ]
        behind = torch.arange(length)[:, None] - torch.arange(length)
        seen = (behind >= 0) & (behind < (window or length))
        attention: Any = torch.nn.functional.scaled_dot_product_attention
        expected = attention(*alone, attn_mask=seen).transpose(1, 2)
        torch.testing.assert_close(found[:, at : at + length], expected, rtol=1e-4, atol=1e-5)
        at += length


@pytest.mark.parametrize(
    "argument", [{"s_aux": torch.ones(2)}, {"position_bias": torch.ones(2)}, {"dropout": 0.1}, {"cache": object()}]
)
def test_attention_refuses_what_it_does_not_implement(argument: dict[str, Any]) -> None:
    states = torch.randn(1, 2, 4, 8)
    segments = Segments.of([4], states.device)
    with pytest.raises(NotImplementedError):
        packed_attention(torch.nn.Module(), states, states, states, None, segments=segments, **argument)
    with pytest.raises(NotImplementedError):
        packed_attention(torch.nn.Module(), states, states, states, torch.ones(4, 4), segments=segments)
    with pytest.raises(ValueError, match="segments"):
        packed_attention(torch.nn.Module(), states, states, states, None)


def test_examples_stay_alone_where_positions_depend_on_the_longest() -> None:
    assert plan([3, 3, 3], 100, Layout(packed=True, single_row=True)) == [[0], [1], [2]]


def _loss(model: TrainableModel, rows: Rows) -> float:
    (batch,) = micro_batches(rows, 10_000, model.layout, model.device)
    with torch.no_grad():
        logprobs_S = model.token_scores(batch).logprobs
    return float(-(batch.weights * logprobs_S).sum() / total_weight(rows))
