import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from api.spec.fields import StrictModel
from api.spec.graders.base import Case, GradingError, NamedModel, Question, Sampling, Verdicts
from api.spec.graders.model_grader import ModelGrader


def _increasing(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError(f"the range must be increasing, but {bounds[0]:g} is not below {bounds[1]:g}")
    return bounds


class SamplingParams(StrictModel):
    max_completions_tokens: Annotated[int, Field(ge=1)] | None = None
    """Maximum length of the judgement, in tokens. Null: 2048."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Sampling temperature of the judgement; 0 always takes the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Tokens are drawn from the likeliest ones whose probabilities add up to this."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """Seed of the draws."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    """How long a judge that the operator has configured reasons. Models of this server have no such option."""

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            max_tokens=self.max_completions_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            reasoning_effort=self.reasoning_effort,
        )


class ScoreModel(ModelGrader):
    """The number that a chat model gives to a conversation; or the reward that the model of a `reward` job gives."""

    summary: ClassVar[str] = "A number that a chat model or a reward model gives."

    type: Literal["score_model"]
    range: Annotated[tuple[float, float], AfterValidator(_increasing)] | None = None
    """The least and the largest number. Null: 0 and 1 for a chat model. The rewards of a reward model have no bounds:
    null leaves them unchanged, and a range clamps them."""
    sampling_params: SamplingParams | None = None
    """Options with which the chat model generates its judgement. Refused for a reward model, which generates no text.
    """

    def models(self) -> Mapping[str, NamedModel]:
        given = self.sampling_params
        chat_only = None if given is None else "it generates no text: leave sampling_params out"
        return {"model": NamedModel(self.model, chat_only, bool(given and given.reasoning_effort))}

    def question(self, case: Case) -> Question:
        sampling = Sampling() if self.sampling_params is None else self.sampling_params.sampling
        return Question(self.model, self.render(case), range=self.range, sampling=sampling)

    def reward(self, case: Case, rewards: Mapping[str, float], verdicts: Verdicts) -> float:
        score = float(verdicts[self.question(case).key].result)
        if not math.isfinite(score):
            raise GradingError(
                "model_grader_server_error", f"{self.model} returned {score}, which is not a finite number"
            )
        return score if self.range is None else min(max(score, self.range[0]), self.range[1])
