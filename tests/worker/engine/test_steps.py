"""The parts of a step: which rows, at what rate, clipped how, and the head's chunks."""

import math
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from api.spec.recipe import Recipe
from api.spec.resolve import ResolvedRecipe, resolve
from api.spec.techniques.ia3 import Ia3
from worker.engine.model import head
from worker.engine.model.batches import Layout, plan
from worker.engine.model.head import Scoring, TokenScores, score, token_scores
from worker.engine.optimizer import adamw, clipped_step, learning_rate
from worker.engine.row_order import rows_of_step, rows_of_steps

LEARNS_ENTROPIES = Scoring(temperature=2.0, entropies=True, learns_entropies=True)


def _recipe(**training: Any) -> ResolvedRecipe:
    body = {"model": "m", "training_file": "file-x", "training": training}
    recipe = Recipe.model_validate(body)
    return resolve(recipe, job_id="j", seed=1, max_length=8, train_rows=100, validation_rows=0)


def test_an_epoch_visits_every_row_once_in_an_order_of_its_own() -> None:
    epochs = [[rows_of_step(10, 4, 3 * epoch + step, seed=5) for step in (1, 2, 3)] for epoch in (0, 1)]
    assert [len(rows) for rows in epochs[0]] == [4, 4, 2]
    orders = [np.concatenate(epoch).tolist() for epoch in epochs]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert orders[0] != orders[1]


@pytest.mark.parametrize("packed", [True, False])
def test_micro_batches_keep_to_their_budget_and_lose_nothing(packed: bool, seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 60, 40).tolist()
    groups = plan(lengths, 50, Layout(packed=packed))
    assert sorted(row for group in groups for row in group) == list(range(40))
    for group in groups:
        members = [lengths[row] for row in group]
        cost = sum(members) if packed else len(members) * max(members)
        assert cost <= 50 or len(group) == 1


@pytest.mark.parametrize("scheduler", ["cosine", "linear", "constant"])
def test_the_schedule_is_its_formula(scheduler: str) -> None:
    recipe = _recipe(scheduler=scheduler, warmup_ratio=0.1, learning_rate=2.0, max_steps=20)
    rates = [learning_rate(recipe, step) for step in range(1, 21)]
    assert rates[:3] == [1.0, 2.0, 2.0]
    x = 17 / 18  # of the last step
    last = {"cosine": 1 + math.cos(math.pi * x), "linear": 2 * (1 - x), "constant": 2.0}[scheduler]
    assert rates[-1] == pytest.approx(last)
    assert all(rate > 0 for rate in rates)


def test_gradients_are_clipped_to_the_norm_and_reported_as_they_were() -> None:
    weight = torch.nn.Parameter(torch.zeros(3, 4))
    optimizer = adamw({"weight": weight}, _recipe())
    weight.grad = torch.full((3, 4), 10.0)
    norm = clipped_step(optimizer, 1.0, 0.5)
    assert float(norm) == pytest.approx(10 * math.sqrt(12))
    # AdamW's first moment is a tenth of the gradient that it was given.
    assert float(optimizer.state[weight]["exp_avg"].norm()) == pytest.approx(0.1, rel=1e-4)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 4))
    optimizer = adamw({"weight": weight}, _recipe(weight_decay=0.1))
    for poison in (math.nan, math.inf):
        weight.grad = torch.full((3, 4), 1.0)
        weight.grad[0, 0] = poison
        norm = clipped_step(optimizer, 1.0, 0.1)
        assert not math.isfinite(norm)
        assert torch.equal(weight, torch.ones(3, 4))
    assert float(optimizer.state[weight]["step"]) == 0


def test_only_matrices_decay() -> None:
    matrix, bias = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    optimizer = adamw({"matrix": matrix, "bias": bias}, _recipe(weight_decay=0.5))
    matrix.grad, bias.grad = torch.zeros(2, 2), torch.zeros(2)
    clipped_step(optimizer, None, 0.1)
    assert matrix.tolist() == [[pytest.approx(0.95)] * 2] * 2
    assert bias.tolist() == [1.0, 1.0]


def test_scales_decay_to_one_where_they_change_nothing() -> None:
    scale = torch.nn.Parameter(torch.tensor([[3.0], [1.0]]))
    recipe = _recipe(weight_decay=0.5).model_copy(update={"technique": Ia3()})
    optimizer = adamw({"layers.0.k_proj.ia3_l.default": scale}, recipe)
    for gradient in (0.0, math.nan):
        scale.grad = torch.full((2, 1), gradient)
        clipped_step(optimizer, None, 0.1)
        assert scale[:, 0].tolist() == pytest.approx([3.0 - 0.05 * 2.0, 1.0])


def test_a_head_that_drops_drops_the_same_in_its_backward_pass(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(seed)
    hidden, matrix = torch.randn(12, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    targets, scales = torch.randint(0, 50, (12,)), torch.rand(12)
    monkeypatch.setattr(head, "CHUNK_LOGITS", 200)  # four rows at a time

    def dropping(rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(rows, 0.5) @ matrix.T

    state = torch.get_rng_state()
    logits = torch.cat([dropping(part) for part in hidden.split(4)])
    expected = torch.autograd.grad(
        (scales * score(logits, targets, Scoring()).smoothed_logprobs).sum(), [hidden, matrix]
    )
    due = torch.rand(1)
    torch.set_rng_state(state)
    found = token_scores(hidden, dropping, targets, Scoring(), vocabulary=50, trained=[matrix])
    for ours, gradient in zip(
        torch.autograd.grad((scales * found.smoothed_logprobs).sum(), [hidden, matrix]), expected, strict=True
    ):
        torch.testing.assert_close(ours, gradient)
    assert torch.equal(torch.rand(1), due)


def test_the_logits_of_a_chunk_are_freed_before_the_next_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK_LOGITS", 200)  # four rows at a time
    hidden, matrix, targets = torch.randn(12, 8, requires_grad=True), torch.randn(50, 8), torch.randint(0, 50, (12,))
    kept: WeakSet[Any] = WeakSet()  # what the graph keeps for its backward pass
    counts: list[int] = []

    class Kept:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor
            kept.add(self)

    def counted(rows: torch.Tensor) -> torch.Tensor:
        counts.append(len(kept))
        return rows @ matrix.T

    with saved_tensors_hooks(Kept, lambda each: each.tensor):
        token_scores(hidden, counted, targets, Scoring(), vocabulary=50, trained=[])
    assert counts == [0, 0, 0]


def test_rows_of_all_steps_are_those_of_each(seed: int) -> None:
    for steps in (1, 3, 9):
        recipe = _recipe(max_steps=steps).model_copy(update={"batch_size": 16})
        each = [rows_of_step(100, 16, step, recipe.seed) for step in range(1, steps + 1)]
        assert rows_of_steps(100, recipe).tolist() == sorted(set(np.concatenate(each).tolist()))


@pytest.mark.parametrize("scoring", [Scoring(), Scoring(temperature=0.7, smoothing=0.1), LEARNS_ENTROPIES])
@pytest.mark.parametrize("trained", [True, False])
def test_the_chunked_head_is_the_whole_one(
    trained: bool, scoring: Scoring, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(seed)
    hidden, matrix = torch.randn(11, 8, requires_grad=True), torch.randn(50, 8, requires_grad=trained)
    targets, scales = torch.randint(0, 50, (11,)), torch.rand(11)
    wanted = [hidden, matrix] if trained else [hidden]

    def loss(scores: TokenScores) -> torch.Tensor:
        return (scales * scores.smoothed_logprobs).sum() + (scores.entropies**2).sum() * scoring.learns_entropies

    expected = score(hidden @ matrix.T, targets, scoring)
    gradients = torch.autograd.grad(loss(expected), wanted)
    monkeypatch.setattr(head, "CHUNK_LOGITS", 150)  # three rows at a time
    trained_parts = [matrix] if trained else []
    found = token_scores(hidden, lambda rows: rows @ matrix.T, targets, scoring, vocabulary=50, trained=trained_parts)
    for name in ("smoothed_logprobs", "logprobs", "correct", "entropies"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    for ours, gradient in zip(torch.autograd.grad(loss(found), wanted), gradients, strict=True):
        torch.testing.assert_close(ours, gradient)
