from collections.abc import Mapping
from typing import ClassVar, Literal

from api.spec.graders.base import EMBEDDING_MODEL, Case, GraderBase, GradingError, Question, Verdicts
from api.spec.graders.similarity import METRICS
from api.spec.graders.templates import Template, render

Metric = Literal[
    "cosine", "fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"
]


class TextSimilarity(GraderBase):
    """How similar the input and the reference are, from 0 to 1."""

    summary: ClassVar[str] = "Similarity to a reference, from 0 to 1."

    type: Literal["text_similarity"]
    input: Template
    """The text to score, such as `{{ sample.output_text }}`."""
    reference: Template
    """The text to compare with, such as `{{ item.answer }}`."""
    evaluation_metric: Metric
    """The measure of similarity. "cosine" needs an embedding model, which the operator names."""

    @property
    def embedding_fields(self) -> list[str]:
        return ["evaluation_metric"] if self.evaluation_metric == "cosine" else []

    def questions(self, case: Case) -> list[Question]:
        try:
            return [self._question(case)] if self.embedding_fields else []
        except GradingError:
            return []  # grading then raises the same error

    def reward(self, case: Case, rewards: Mapping[str, float], verdicts: Verdicts) -> float:
        if self.evaluation_metric == "cosine":
            return float(verdicts[self._question(case).key].result)
        return METRICS[self.evaluation_metric](render(self.input, case), render(self.reference, case))

    def _question(self, case: Case) -> Question:
        texts = (render(self.input, case), render(self.reference, case))
        return Question(EMBEDDING_MODEL, [{"role": "user", "content": text} for text in texts])
