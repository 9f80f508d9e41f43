import numpy as np

from worker.methods.classification import MOST_CONFUSED, summary


def test_the_confusion_matrix_has_true_classes_in_rows() -> None:
    scores = np.eye(3)[[0, 1, 1, 2]]
    found = summary(scores, np.array([[0], [1], [2], [2]]), "single_label")
    assert found["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert (found["accuracy"], found["f1_by_class"][0]) == (0.75, 1.0)


def test_of_many_classes_no_confusion_matrix_is_reported() -> None:
    """Of ten thousand it would have a hundred million entries."""
    classes = MOST_CONFUSED + 1
    found = summary(np.eye(classes), np.arange(classes)[:, None], "single_label")
    assert "confusion" not in found
    assert (found["accuracy"], len(found["f1_by_class"])) == (1.0, classes)
