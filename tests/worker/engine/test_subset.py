"""The rows that evaluations look at where there are too many: drawn, not the first ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api.estimate.work import EVALUATED_ROWS
from api.spec import evaluation
from api.spec.evaluation import COMPARED_ROWS
from tests.worker.pairs import make
from tests.worker.recorder import Recorder
from worker.engine.comparison import Comparison
from worker.engine.data import draw_rows, load_data
from worker.shared.arrays import Rows, load_rows, save_rows

SORTED = np.repeat([0, 1, 2], [900, 60, 40])
"""A file that is sorted by class."""
MOST = 32_768
"""Compared tokens after a long training. These ones are short."""


def rows_of(labels: Any) -> Rows:
    starts = 2 * np.arange(len(labels))
    tokens = np.zeros(2 * len(labels), np.int32)
    return Rows(tokens, tokens.astype(np.float32), starts, starts + 2, labels=np.asarray(labels, np.float32))


@pytest.mark.parametrize("count", [25, 100, 256])
def test_each_label_keeps_its_share(count: int, seed: int) -> None:
    found = draw_rows(rows_of(SORTED[:, None]), count, seed)
    assert found.labels is not None
    assert len(found) == count
    for label in (0, 1, 2):
        expected = count * np.equal(SORTED, label).mean()
        assert abs((found.labels[:, 0] == label).sum() - expected) <= 1


def test_sets_of_labels_and_numbers_keep_their_shares_too(seed: int) -> None:
    several = np.repeat([[1, 0], [0, 1], [1, 1]], [500, 300, 200], axis=0)
    found = draw_rows(rows_of(several), 100, seed)
    assert found.labels is not None
    assert [int((found.labels == each).all(1).sum()) for each in ([1, 0], [0, 1], [1, 1])] == [50, 30, 20]
    numbers = draw_rows(rows_of(np.sort(np.random.default_rng(seed).exponential(size=1000))[:, None]), 200, seed)
    assert numbers.labels is not None
    assert abs(np.median(numbers.labels) - np.log(2)) < 0.1


def test_rows_without_labels_are_drawn_from_the_whole_file_with_the_seed(seed: int) -> None:
    rows = rows_of(SORTED[:, None])
    plain = Rows(rows.tokens, rows.loss_weights, rows.starts, rows.ends)
    numbers = draw_rows(plain, 100, seed).numbers
    assert (np.diff(numbers) > 0).all()
    assert numbers.mean() == pytest.approx(500, abs=120)
    assert (draw_rows(plain, 100, seed).numbers == numbers).all()
    assert (draw_rows(plain, 100, seed + 1).numbers != numbers).any()
    assert draw_rows(plain, 1000, seed) is plain


@pytest.mark.parametrize("method", ["classification", "kto"])
def test_evaluations_and_the_comparison_see_every_label_of_a_sorted_file(
    method: str, tiny_llama: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "COMPARED_TOKENS", (MOST, MOST))
    run = tmp_path / "run"
    recipe = make(run, tiny_llama, "lora", method, seed=seed)
    one, many = load_rows(run / "data" / "train.safetensors"), 400
    labels = np.repeat([0, 1], [300, 100])
    save_rows(
        run / "data" / "validation.safetensors",
        np.tile(one.tokens[:12], many),
        np.tile(one.loss_weights[:12], many),
        12 * np.arange(many + 1),
        labels=labels[:, None].astype(np.float32),
        label_names=one.label_names,
    )
    data = load_data(run / "data", recipe)
    assert data.validation_subset.labels is not None
    assert (len(data.validation_subset), int(data.validation_subset.labels.sum())) == (
        EVALUATED_ROWS,
        EVALUATED_ROWS // 4,
    )
    compared = Comparison(recipe, data, object(), Recorder(), pytest.fail)._rows  # type: ignore[arg-type]
    assert compared.labels is not None
    assert (len(compared), int(compared.labels.sum())) == (COMPARED_ROWS, COMPARED_ROWS // 4)


def test_the_comparison_stays_within_its_tokens(
    tiny_llama: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "COMPARED_TOKENS", (MOST, MOST))
    recipe = make(tmp_path / "run", tiny_llama, "lora", "supervised", seed=seed)
    lengths = np.random.default_rng(seed).integers(200, 1500, 300)
    ends = np.cumsum(lengths)
    tokens = np.zeros(ends[-1], np.int32)
    rows = Rows(tokens, tokens.astype(np.float32), ends - lengths, ends)
    data = load_data(tmp_path / "run" / "data", recipe)
    long = type(data)(data.train, rows, seed)
    compared = Comparison(recipe, long, object(), Recorder(), pytest.fail)._rows  # type: ignore[arg-type]
    assert MOST / 2 < compared.lengths.sum() <= MOST
