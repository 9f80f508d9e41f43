"""Classification and regression: a linear head on the text's representation."""

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch.nn import functional

from api.spec.evaluation import SHOWN_ROWS
from api.spec.methods.classification import ClassificationOptions
from worker.engine.generation.sample_answers import GeneratedAnswer, display_text
from worker.engine.model.batches import MicroBatch
from worker.engine.objective import EvaluationMetrics, MethodContext, Metric, Metrics, Objective
from worker.shared.arrays import Rows

MAX_CONFUSION_CLASSES = 64
"""Maximum number of classes for which evaluations report a confusion matrix. The matrix of K classes has K² numbers."""


def label_losses(
    scores_R_K: torch.Tensor,
    labels_R_C: torch.Tensor,
    problem: str,
    *,
    class_weights_K: torch.Tensor | None = None,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the loss of each row, [R], from the head's K scores.

    - single_label: cross-entropy of the class in labels [R, 1], times the class's weight.
      `smoothing` is the ε of label smoothing.
    - multi_label: the mean over the K labels [R, K] of their binary cross-entropies.
    - regression: the squared error to labels [R, 1].
    """
    if problem == "single_label":
        classes_R = labels_R_C[:, 0].long()
        losses_R = functional.cross_entropy(scores_R_K, classes_R, reduction="none", label_smoothing=smoothing)
        return losses_R if class_weights_K is None else losses_R * class_weights_K[classes_R]
    if problem == "multi_label":
        return functional.binary_cross_entropy_with_logits(scores_R_K, labels_R_C, reduction="none").mean(1)
    return (scores_R_K[:, 0] - labels_R_C[:, 0]) ** 2


class Classification(Objective):
    options: ClassificationOptions

    def __init__(self, context: MethodContext) -> None:
        super().__init__(context)
        assert self.recipe.labels is not None, "the labels are known once the rows are prepared"
        self._problem = self.recipe.labels.problem
        self._names = self.recipe.labels.names
        self._class_weights: torch.Tensor | None = None

    def transform_rows(self, rows: Rows) -> Rows:
        """Return the rows unchanged. The first call is for the training rows, whose labels set the weights of the
        classes."""
        balanced = self.options.class_weights == "balanced" and self._problem == "single_label"
        if balanced and self._class_weights is None:
            assert rows.labels is not None
            counts_K = np.bincount(rows.labels[:, 0].astype(np.int64), minlength=len(self._names))
            weights_K = len(rows) / (len(self._names) * np.maximum(counts_K, 1))  # as scikit-learn's "balanced"
            self._class_weights = torch.tensor(weights_K, dtype=torch.float32, device=self.model.device)
        return rows

    def normalizer(self, rows: Rows) -> float:
        return float(len(rows))

    def loss(self, batch: MicroBatch, normalizer: float) -> tuple[torch.Tensor, Metrics]:
        return self._loss(self.model.sequence_scores(batch), batch, normalizer)

    def _loss(self, scores_R_K: torch.Tensor, batch: MicroBatch, normalizer: float) -> tuple[torch.Tensor, Metrics]:
        assert batch.labels is not None
        # Class weights apply to evaluations, too, so that the best model is chosen by the loss that training minimizes.
        # Label smoothing applies to training only.
        training = torch.is_grad_enabled()
        losses_R = label_losses(
            scores_R_K,
            batch.labels,
            self._problem,
            class_weights_K=self._class_weights,
            smoothing=self.options.label_smoothing if training else 0.0,
        )
        correct = _correct_count(scores_R_K.detach(), batch.labels, self._problem)
        return losses_R.sum() / normalizer, {"accuracy": correct / normalizer}

    @torch.no_grad()
    def evaluate(self, rows: Rows) -> EvaluationMetrics:
        """Return the loss and the metrics that `classification_metrics` computes."""
        losses, scores, labels = [], [], []
        self.model.train(False)
        for batch in self.batches(rows):
            scores_R_K = self.model.sequence_scores(batch)
            losses.append(self._loss(scores_R_K, batch, float(len(rows)))[0])
            assert batch.labels is not None
            scores.append(scores_R_K)
            labels.append(batch.labels)
        metrics = classification_metrics(
            torch.cat(scores).cpu().numpy(), torch.cat(labels).cpu().numpy(), self._problem
        )
        return EvaluationMetrics(float(torch.stack(losses).sum()), metrics)

    @torch.no_grad()
    def sample_answers(self, rows: Rows, max_tokens: int) -> list[GeneratedAnswer]:
        """Return a few texts with their labels and the predicted labels. Return an empty list unless the problem is
        single_label. `max_tokens` is not used."""
        if not self._names or self._problem != "single_label" or rows.labels is None:
            return []
        shown = rows.take(np.arange(min(SHOWN_ROWS, len(rows))))
        tokenizer = Tokenizer.from_file(str(self.context.run / "base" / "tokenizer.json"))
        self.model.train(False)
        assert shown.labels is not None
        answers = []
        for row, (tokens_T, _) in enumerate(shown):
            (batch,) = self.batches(shown.take(np.array([row])))
            predicted, label = int(self.model.sequence_scores(batch)[0].argmax()), int(shown.labels[row, 0])
            text = display_text(tokenizer.decode(tokens_T.tolist()))
            answers.append(
                GeneratedAnswer(text, display_text(self._names[label]), display_text(self._names[predicted]))
            )
        return answers


def _correct_count(scores_R_K: torch.Tensor, labels_R_C: torch.Tensor, problem: str) -> torch.Tensor:
    """Return the number of rows that are labeled correctly; 0 for regression. A row with several labels counts only if
    all of them are correct."""
    if problem == "single_label":
        return (scores_R_K.argmax(1) == labels_R_C[:, 0]).float().sum()
    if problem == "multi_label":
        return ((scores_R_K > 0) == (labels_R_C > 0.5)).all(1).float().sum()
    return torch.zeros((), device=scores_R_K.device)


def classification_metrics(
    scores_R_K: npt.NDArray[np.float32], labels_R_C: npt.NDArray[np.float32], problem: str
) -> dict[str, Metric]:
    """Return accuracy, F1 per class and averaged, and the confusion matrix (rows: true classes, columns: predicted
    ones); for regression, the mean absolute error and R². A class that is neither present nor predicted has F1 = 0."""
    if problem == "regression":
        errors_R, labels_R = scores_R_K[:, 0] - labels_R_C[:, 0], labels_R_C[:, 0]
        total_squares = float(((labels_R - labels_R.mean()) ** 2).sum())
        r2 = 1.0 - float((errors_R**2).sum()) / total_squares if total_squares > 0 else 0.0
        return {"mean_absolute_error": float(np.abs(errors_R).mean()), "r2": r2}
    extra: dict[str, Metric] = {}
    if problem == "single_label":
        classes = scores_R_K.shape[1]
        labels_R, predicted_R = labels_R_C[:, 0].astype(np.int64), scores_R_K.argmax(1)
        true_positives_K, support_K, predicted_K = (
            np.bincount(classes_R, minlength=classes)
            for classes_R in (labels_R[labels_R == predicted_R], labels_R, predicted_R)
        )
        if classes <= MAX_CONFUSION_CLASSES:
            cells = np.bincount(labels_R * classes + predicted_R, minlength=classes**2)
            extra["confusion"] = cells.reshape(classes, classes).tolist()
        accuracy = float((labels_R == predicted_R).mean())
    else:
        labels_R_K, predicted_R_K = labels_R_C > 0.5, scores_R_K > 0
        true_positives_K = (labels_R_K & predicted_R_K).sum(0)
        support_K, predicted_K = labels_R_K.sum(0), predicted_R_K.sum(0)
        accuracy = float((labels_R_K == predicted_R_K).all(1).mean())
    # F1 = 2 TP / (2 TP + FP + FN), and support + predicted is that denominator.
    f1_K = 2 * true_positives_K / np.maximum(support_K + predicted_K, 1)
    f1_micro = 2 * true_positives_K.sum() / max(support_K.sum() + predicted_K.sum(), 1)
    return {
        "accuracy": accuracy,
        "f1_macro": float(f1_K.mean()),
        "f1_micro": float(f1_micro),
        "f1_by_class": f1_K.tolist(),
        **extra,
    }
