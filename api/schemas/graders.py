"""Grades in the shape of OpenAI's graders."""

from typing import Self

from pydantic import BaseModel

from api.spec.graders import Grade, Grader, Metadata


class GradeObject(BaseModel):
    reward: float
    metadata: Metadata
    sub_rewards: dict[str, float]
    model_grader_token_usage_per_model: dict[str, int]
    """Tokens that chat models read and wrote, by the name of the model in the grader. A judgement that was stored for
    the same question earlier costs none."""

    @classmethod
    def of(cls, grade: Grade) -> Self:
        return cls(
            reward=grade.reward,
            metadata=grade.metadata,
            sub_rewards=dict(grade.sub_rewards),
            model_grader_token_usage_per_model=dict(grade.tokens_by_model),
        )


class ValidGrader(BaseModel):
    grader: Grader
