"""Packed rows must train exactly as single examples do. A family is packed only because it is shown here."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
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


@pytest.mark.parametrize("family", sorted(PACKED_FAMILIES))
def test_pairs_that_share_their_prompts_have_the_same_loss_and_gradients(
    family: str, bases: dict[str, Path], tmp_path: Path, seed: int
) -> None:
    rows = pairs(tmp_path, seed)
    loss, gradients, model = trainer_loss(bases[family], rows)
    (batch,) = micro_batches(rows, 10_000, model.layout, model.device)
    shares = not model.layout.single_row
    assert (batch.tokens.numel() < rows.lengths.sum()) == shares
    expected_loss, expected = plain_loss(bases[family], rows)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert worst_difference(gradients, expected) < 1e-5


def pairs(folder: Path, seed: int) -> Rows:
    """Pairs with prompts from none to several windows long, the last pair with two equal answers."""
    rng = np.random.default_rng(seed)

    def tokens(count: int) -> list[int]:
        return [int(token) for token in rng.integers(10, 60, count)]

    sequences = []
    for prompt, chosen, rejected in ((0, 9, 5), (17, 1, 30), (40, 7, 7), (40, 8, 6), (4 * WINDOW, 3, 4), (30, 5, 5)):
        shared = tokens(prompt)
        answers = [tokens(chosen), tokens(rejected)]
        for answer in answers if prompt != 30 else answers[:1] * 2:
            sequences.append((shared + answer, [0.0] * prompt + [1.0] * len(answer)))
    return replace(as_rows(folder, sequences), width=2)


@pytest.mark.parametrize(
    ("family", "budget_tokens"), [*((family, 10_000) for family in sorted(PACKED_FAMILIES)), ("llama", 40)]
)
def test_answers_that_share_their_prompt_have_the_same_loss_and_gradients(
    family: str, budget_tokens: int, bases: dict[str, Path], tmp_path: Path, seed: int
) -> None:
    rows = answers(tmp_path, seed)
    loss, gradients, model = trainer_loss(bases[family], rows, budget_tokens=budget_tokens)
    batches = list(micro_batches(rows, budget_tokens, model.layout, model.device))
    assert (sum(batch.tokens.numel() for batch in batches) < rows.lengths.sum()) == (not model.layout.single_row)
    assert all(batch.tokens.numel() <= budget_tokens or batch.sequences == 1 for batch in batches)
    expected_loss, expected = plain_loss(bases[family], rows)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert worst_difference(gradients, expected) < 1e-5


@pytest.mark.parametrize("budget_tokens", [10_000, 40, 1])
def test_answers_that_share_their_prompt_keep_the_values_of_their_row(
    budget_tokens: int, tmp_path: Path, seed: int
) -> None:
    rows = answers(tmp_path, seed)
    numbered = replace(rows, per_row={"index": np.arange(len(rows), dtype=np.float32)})
    found: dict[int, tuple[float, list[int]]] = {}
    for batch in micro_batches(numbered, budget_tokens, Layout(packed=True), torch.device("cpu")):
        for sequence, (index, count) in enumerate(zip(batch.per_row["index"].tolist(), batch.counts(), strict=True)):
            found[int(index)] = (float(count), batch.targets[batch.owners == sequence].tolist())
    supervised = [tokens_T[weights_T > 0].tolist() for tokens_T, weights_T in rows]
    assert [found[row] for row in range(len(rows))] == [(len(tokens), tokens) for tokens in supervised]


def answers(folder: Path, seed: int) -> Rows:
    """Four answers to each of three prompts, the first of which is too short to be shared."""
    rng = np.random.default_rng(seed)
    sequences = []
    for prompt in (5, 17, 3 * WINDOW):
        shared = rng.integers(10, 60, prompt).tolist()
        for length in (9, 1, 6, 9):
            weight = float(rng.uniform(0.5, 2.0))
            sequences.append((shared + rng.integers(10, 60, length).tolist(), [0.0] * prompt + [weight] * length))
    return replace(as_rows(folder, sequences), numbers=np.repeat(np.arange(3), 4))


def test_every_packed_family_is_among_those_tested() -> None:
    assert FAMILIES.keys() >= PACKED_FAMILIES


def test_a_hybrid_family_takes_the_padded_path(bases: dict[str, Path], tmp_path: Path, seed: int) -> None:
    rows = as_rows(tmp_path, random_rows(3, seed=seed))
    _, _, model = trainer_loss(bases["falcon_h1"], rows)
    assert not model.layout.packed


def test_the_real_model_packed_equals_one_by_one(smollm2: Path, tmp_path: Path, seed: int) -> None:
    # Real text: its hidden states reach 20,000 at a few places, and with nonsense for input transformers' own two
    # attentions differ by more than the bound.
    rows = as_rows(tmp_path, docstring_rows(smollm2, 3, seed=seed))
    loss, gradients, _ = trainer_loss(smollm2, rows)
    expected_loss, expected = plain_loss(smollm2, rows)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    # Most rows give 2e-6 to 4e-6; of some rows transformers' own sums are up to 5e-5 off in float32.
    assert worst_difference(gradients, expected) < 1e-4


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"sliding_window": 5}, {"sliding_window": 310}, {"softcap": 3.0}])
@pytest.mark.parametrize("prompt", [3, 300])
def test_continuations_of_a_prompt_attend_to_it_as_if_it_were_theirs(
    prompt: int, options: dict[str, Any], dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    answers = [7, 6, 20]
    lengths = [prompt, *answers, 9]
    states = [torch.randn(1, heads, sum(lengths), 8, dtype=dtype).requires_grad_() for heads in (4, 2, 2)]
    prompts = [range(0), *(range(prompt) for _ in answers), range(0)]
    found = _attended(states, Segments.of(lengths, states[0].device, prompts), options)
    ends = np.cumsum(lengths)
    copies = [[*range(prompt), *range(end - answer, end)] for answer, end in zip(answers, ends[1:], strict=False)]
    copies.append(list(range(ends[-2], ends[-1])))
    alone = [torch.cat([each[:, :, copy] for copy in copies], 2) for each in states]
    whole = _attended(alone, Segments.of([*map(len, copies)], states[0].device), options)
    first = {place: number for number, place in reversed([*enumerate(np.concatenate(copies).tolist())])}
    expected = whole[:, [first[place] for place in range(sum(lengths))]]
    bound = 1e-5 if dtype == torch.float32 else 0.01  # ‖Δ‖ / ‖expected‖
    assert (found - expected).norm() < bound * expected.norm()
    weights = torch.randn_like(expected)
    ours = torch.autograd.grad((found * weights).sum(), states)
    theirs = torch.autograd.grad((expected * weights).sum(), states)
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() < bound * other.norm()


def _attended(states: list[torch.Tensor], segments: Segments, options: dict[str, Any]) -> torch.Tensor:
    query, key, value = states
    return packed_attention(torch.nn.Module(), query, key, value, None, segments=segments, **options)[0]


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
