from pathlib import Path

import numpy as np
import pytest
import torch

from api.spec.resolve import Labels
from tests.worker.parity import ours
from worker.methods.classification import MAX_CONFUSION_CLASSES, classification_metrics


def test_the_confusion_matrix_has_true_classes_in_rows() -> None:
    scores = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]
    found = classification_metrics(scores, np.array([[0], [1], [2], [2]], np.float32), "single_label")
    assert found["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert found["accuracy"] == 0.75
    assert found["f1_by_class"] == pytest.approx([1, 2 / 3, 2 / 3])


def test_of_many_classes_no_confusion_matrix_is_reported() -> None:
    """Of ten thousand it would have a hundred million entries."""
    classes = MAX_CONFUSION_CLASSES + 1
    scores, labels = np.eye(classes, dtype=np.float32), np.arange(classes, dtype=np.float32)[:, None]
    found = classification_metrics(scores, labels, "single_label")
    assert "confusion" not in found
    assert (found["accuracy"], found["f1_by_class"]) == (1.0, [1.0] * classes)


def test_an_evaluation_weighs_classes_as_training_does(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    """Or the step with the lowest validation loss would be the one that learnt least of the rare classes."""
    labels = Labels(problem="single_label", names=("no", "yes"))
    recipe = ours.settled("classification", {"class_weights": "balanced"}).model_copy(update={"labels": labels})
    objective = ours.begin(tiny_llama, tmp_path / "run", recipe)
    rng = np.random.default_rng(seed)
    train, held_out = (
        ours.rows_of([(tokens, [0.0] * len(tokens)) for tokens in drawn], labels=given)
        for given in ([0] * 9 + [1], [1, 0, 0])
        for drawn in [[ours.drawn(rng, 3, 9) for _ in given]]
    )
    objective.prepare(train)
    held_out = objective.prepare(held_out)
    scores = torch.cat([objective.model.sequence_scores(batch) for batch in objective.batches(held_out)])
    order = np.argsort(held_out.lengths, kind="stable")
    classes = torch.tensor([1, 0, 0])[order]
    each = torch.nn.functional.cross_entropy(scores.double(), classes, reduction="none")
    expected = float((each * torch.tensor([10 / 18, 10 / 2]).double()[classes]).mean())
    assert objective.evaluate(held_out).loss == pytest.approx(expected, abs=1e-5)
