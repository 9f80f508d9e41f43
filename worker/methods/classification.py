"""Classification and regression: a linear head on the text's representation."""

from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional

from api.spec.evaluation import SHOWN_ROWS
from api.spec.methods.classification import ClassificationOptions
from worker.engine.generation.sample_answers import GeneratedAnswer, display_text
from worker.engine.model.batches import MicroBatch
from worker.engine.objective import MethodContext, Metrics, Objective
from worker.shared.arrays import Rows


def label_losses(
    scores_R_K: torch.Tensor,
    labels_R_C: torch.Tensor,
    problem: str,
    *,
    class_weights_K: torch.Tensor | None = None,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """[R]: cross-entropy of the class in labels [R, 1]; the mean of the binary cross-entropies of labels [R, K]; or the
    squared error to labels [R, 1]."""
    if problem == "single_label":
        classes_R = labels_R_C[:, 0].long()
        losses_R = functional.cross_entropy(scores_R_K, classes_R, reduction="none", label_smoothing=smoothing)
        return losses_R if class_weights_K is None else losses_R * class_weights_K[classes_R]
    if problem == "multi_label":
        return functional.binary_cross_entropy_with_logits(scores_R_K, labels_R_C, reduction="none").mean(1)
    return (scores_R_K[:, 0] - labels_R_C[:, 0]) ** 2


MOST_CONFUSED = 64
"""Classes of which a confusion matrix is shown: it grows with their square, in every evaluation's report."""


class Classification(Objective):
    def __init__(self, setting: MethodContext) -> None:
        super().__init__(setting)
        assert self.recipe.labels is not None, "the labels are known once the rows are prepared"
        self._problem = self.recipe.labels.problem
        self._names = self.recipe.labels.names
        self._class_weights: torch.Tensor | None = None

    def lay_out(self, rows: Rows) -> Rows:
        options: ClassificationOptions = self.options
        if options.class_weights == "balanced" and self._problem == "single_label" and self._class_weights is None:
            assert rows.labels is not None
            counts_K = np.bincount(rows.labels[:, 0].astype(np.int64), minlength=len(self._names))
            weights_K = len(rows) / (len(self._names) * np.maximum(counts_K, 1))
            self._class_weights = torch.tensor(weights_K, dtype=torch.float32, device=self.model.device)
        return rows

    def total(self, rows: Rows) -> float:
        return float(len(rows))

    def loss(self, batch: MicroBatch, total: float) -> tuple[torch.Tensor, Metrics]:
        scores_R_K = self.model.sequence_scores(batch)
        return self._loss(scores_R_K, batch, total)

    def _loss(self, scores_R_K: torch.Tensor, batch: MicroBatch, total: float) -> tuple[torch.Tensor, Metrics]:
        options: ClassificationOptions = self.options
        assert batch.labels is not None
        learning = torch.is_grad_enabled()
        losses_R = label_losses(
            scores_R_K,
            batch.labels,
            self._problem,
            class_weights_K=self._class_weights,
            smoothing=options.label_smoothing if learning else 0.0,
        )
        return losses_R.sum() / total, {"accuracy": _right(scores_R_K.detach(), batch.labels, self._problem) / total}

    @torch.no_grad()
    def evaluate(self, rows: Rows) -> dict[str, Any]:
        """The loss, and what people ask of a classifier: accuracy, F1 by class and over all, the confusion matrix
        (of few classes)."""
        losses, scores, labels = [], [], []
        self.model.train(False)
        for batch in self.batches(rows):
            scores_R_K = self.model.sequence_scores(batch)
            losses.append(self._loss(scores_R_K, batch, float(len(rows)))[0])
            assert batch.labels is not None
            scores.append(scores_R_K)
            labels.append(batch.labels)
        quality = summary(torch.cat(scores).cpu().numpy(), torch.cat(labels).cpu().numpy(), self._problem)
        return {"loss": float(torch.stack(losses).sum()), **quality}

    @torch.no_grad()
    def show_answers(self, rows: Rows) -> list[GeneratedAnswer]:
        """Texts, their labels, and the labels that the model gives them."""
        if not self._names or self._problem != "single_label" or rows.labels is None:
            return []
        few = rows.take(np.arange(min(SHOWN_ROWS, len(rows))))
        tokenizer = Tokenizer.from_file(str(self.setting.run / "base" / "tokenizer.json"))
        self.model.train(False)
        assert few.labels is not None
        found = []
        for row, (tokens_T, _) in enumerate(few):
            (batch,) = self.batches(few.take(np.array([row])))
            best, right = int(self.model.sequence_scores(batch)[0].argmax()), int(few.labels[row, 0])
            text = display_text(tokenizer.decode(tokens_T.tolist()))
            found.append(GeneratedAnswer(text, display_text(self._names[right]), display_text(self._names[best])))
        return found


def _right(scores_R_K: torch.Tensor, labels_R_C: torch.Tensor, problem: str) -> torch.Tensor:
    """How many rows are labelled right; none for regression, which knows no right."""
    if problem == "single_label":
        return (scores_R_K.argmax(1) == labels_R_C[:, 0]).float().sum()
    if problem == "multi_label":
        return ((scores_R_K > 0) == (labels_R_C > 0.5)).all(1).float().sum()
    return torch.zeros((), device=scores_R_K.device)


def summary(scores_R_K: Any, labels_R_C: Any, problem: str) -> dict[str, Any]:
    """Metrics of predictions against labels, as numpy arrays. F1 of a class that is neither there nor predicted: 0."""
    if problem == "regression":
        errors_R, labels_R = scores_R_K[:, 0] - labels_R_C[:, 0], labels_R_C[:, 0]
        spread = float(((labels_R - labels_R.mean()) ** 2).sum())
        r2 = 1.0 - float((errors_R**2).sum()) / spread if spread > 0 else 0.0
        return {"mean_absolute_error": float(np.abs(errors_R).mean()), "r2": r2}
    if problem == "single_label":
        classes = scores_R_K.shape[1]
        truth_R, found_R = labels_R_C[:, 0].astype(np.int64), scores_R_K.argmax(1)
        right, there, found = (
            np.bincount(each_R, minlength=classes) for each_R in (truth_R[truth_R == found_R], truth_R, found_R)
        )
        extra: dict[str, Any] = {}
        if classes <= MOST_CONFUSED:
            cells = np.bincount(truth_R * classes + found_R, minlength=classes**2)
            extra["confusion"] = cells.reshape(classes, classes).tolist()
        accuracy = float((truth_R == found_R).mean())
    else:
        truth_R_K, found_R_K = labels_R_C > 0.5, scores_R_K > 0
        right, there, found = (truth_R_K & found_R_K).sum(0), truth_R_K.sum(0), found_R_K.sum(0)
        extra = {}
        accuracy = float((truth_R_K == found_R_K).all(1).mean())
    f1_K = 2 * right / np.maximum(there + found, 1)
    micro = 2 * right.sum() / max(there.sum() + found.sum(), 1)
    return {
        "accuracy": accuracy,
        "f1_macro": float(f1_K.mean()),
        "f1_micro": float(micro),
        "f1_by_class": f1_K.tolist(),
        **extra,
    }
