"""What every grader says of itself, and what it is given to grade. Torch-free."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from api.spec.fields import StrictModel

Name = Annotated[str, Field(min_length=1, max_length=256)]

Messages = list[dict[str, str]]
"""`[{"role", "content"}]`, as chat templates take them."""

Scores = Callable[[str, Messages], float]
"""Name of a reward model, messages → its reward for them."""

Flag = Literal[
    "formula_parse_error",
    "invalid_variable_error",
    "model_grader_parse_error",
    "model_grader_refusal_error",
    "model_grader_server_error",
    "other_error",
    "python_grader_runtime_error",
    "python_grader_server_error",
    "sample_parse_error",
    "truncated_observation_error",
    "unresponsive_reward_error",
]
"""OpenAI's names for why an answer could not be graded."""


class GradingError(Exception):
    """One answer cannot be graded. It costs that answer its reward, never the job."""

    def __init__(self, flag: Flag, message: str) -> None:
        super().__init__(message)
        self.flag: Flag = flag
        self.message = message


@dataclass(frozen=True)
class Case:
    """An answer, and the row of the dataset whose prompt it answers."""

    text: str
    item: Mapping[str, Any]

    @cached_property
    def json(self) -> Any:
        """The answer read as JSON; GradingError if it is none."""
        try:
            return json.loads(self.text, parse_constant=_not_json)
        except (ValueError, RecursionError):
            raise GradingError("sample_parse_error", "sample.output_json: the answer is not valid JSON") from None


def _not_json(constant: str) -> None:
    raise ValueError(constant)


class GraderBase(StrictModel, ABC):
    summary: ClassVar[str]

    name: Name
    type: str

    @property
    def parts(self) -> Mapping[str, "GraderBase"]:
        """The graders it combines, by their names in its formula."""
        return {}

    @property
    def needs_model(self) -> bool:
        """A reward model has to score what it renders: it runs in a worker only."""
        return any(part.needs_model for part in self.parts.values())

    def reward_models(self) -> Mapping[str, str]:
        """Return the models of reward jobs that the grader names, by the path of the field."""
        return {
            f"graders.{name}.{path}": model
            for name, part in self.parts.items()
            for path, model in part.reward_models().items()
        }

    @abstractmethod
    def reward(self, case: Case, rewards: Mapping[str, float], scores: Scores | None) -> float:
        """The answer's reward, given those of the parts; GradingError if it cannot be told."""

    def questions(self, case: Case) -> list[tuple[str, Messages]]:
        """Every (reward model, messages) that grading this answer will ask `scores` about: so that a batch of answers
        can pass through the model at once, before they are graded. What cannot be rendered is not asked."""
        return [question for part in self.parts.values() for question in part.questions(case)]
