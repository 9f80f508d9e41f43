"""Grades in the shape of OpenAI's graders."""

from typing import Self

from pydantic import BaseModel

from api.spec.graders import Grade, Grader, Metadata


class GradeObject(BaseModel):
    reward: float
    metadata: Metadata
    sub_rewards: dict[str, float]
    model_grader_token_usage_per_model: dict[str, int]
    """Always empty: reward models generate no tokens."""

    @classmethod
    def of(cls, grade: Grade) -> Self:
        sub_rewards = dict(grade.sub_rewards)
        return cls(
            reward=grade.reward,
            metadata=grade.metadata,
            sub_rewards=sub_rewards,
            model_grader_token_usage_per_model={},
        )


class ValidGrader(BaseModel):
    grader: Grader
