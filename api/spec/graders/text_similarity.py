from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator

from api.spec.graders.base import Case, GraderBase, Verdicts
from api.spec.graders.similarity import METRICS
from api.spec.graders.templates import Template, render


def _no_embeddings(metric: object) -> object:
    if metric == "cosine":
        raise ValueError(
            "'cosine' is not supported, because it needs an embedding model: use fuzzy_match, gleu or rouge_l, or a "
            "score_model grader"
        )
    return metric


Metric = Literal[
    "fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"
]


class TextSimilarity(GraderBase):
    """How similar the input and the reference are, from 0 to 1."""

    summary: ClassVar[str] = "Similarity to a reference, from 0 to 1."

    type: Literal["text_similarity"]
    input: Template
    """The text to score, such as `{{ sample.output_text }}`."""
    reference: Template
    """The text to compare with, such as `{{ item.answer }}`."""
    evaluation_metric: Annotated[Metric, BeforeValidator(_no_embeddings)]
    """The measure of similarity. OpenAI's "cosine" is refused, because it needs an embedding model."""

    def reward(self, case: Case, rewards: Mapping[str, float], verdicts: Verdicts) -> float:
        return METRICS[self.evaluation_metric](render(self.input, case), render(self.reference, case))
