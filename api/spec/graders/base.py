"""The interface of a grader, and the case that it grades. Torch-free."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from api.spec.fields import StrictModel

Name = Annotated[str, Field(min_length=1, max_length=256)]

Messages = list[dict[str, str]]
"""`[{"role", "content"}]`, the form of chat templates."""

Scores = Callable[[str, Messages], float]
"""(name of a reward model, messages) → the model's reward for them."""

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
"""OpenAI's names of the reasons why an answer cannot be graded."""


class GradingError(Exception):
    """One answer cannot be graded. Its reward is 0; the job continues."""

    def __init__(self, flag: Flag, message: str) -> None:
        super().__init__(message)
        self.flag: Flag = flag
        self.message = message


@dataclass(frozen=True)
class Case:
    """An answer, and the row whose prompt it answers."""

    text: str
    item: Mapping[str, object]

    @cached_property
    def json(self) -> object:
        """Return the answer parsed as JSON. Raises GradingError."""
        try:
            return json.loads(self.text, parse_constant=_not_json)
        except (ValueError, RecursionError):
            raise GradingError("sample_parse_error", "sample.output_json: the answer is not valid JSON") from None


def _not_json(constant: str) -> None:
    raise ValueError(constant)


class GraderBase(StrictModel, ABC):
    summary: ClassVar[str]

    name: Name
    """A name of your own, by which the formula of a `multi` grader refers to this one."""
    type: str

    @property
    def parts(self) -> Mapping[str, "GraderBase"]:
        """The graders that this one combines, by their names in its formula."""
        return {}

    @property
    def needs_model(self) -> bool:
        """Whether the grader needs the rewards of a reward model, and so runs only in a worker."""
        return any(part.needs_model for part in self.parts.values())

    @property
    def runs_script(self) -> bool:
        """Whether the grader runs a user's script, and so grades in a child process only."""
        return any(part.runs_script for part in self.parts.values())

    def faults(self) -> Mapping[str, str]:
        """Return what is wrong with the grader's scripts, by the path of the field. It loads them in their sandbox."""
        return {
            f"graders.{name}.{path}": fault
            for name, part in self.parts.items()
            for path, fault in part.faults().items()
        }

    def reward_models(self) -> Mapping[str, str]:
        """Return the models of reward jobs that the grader names, by the path of the field."""
        return {
            f"graders.{name}.{path}": model
            for name, part in self.parts.items()
            for path, model in part.reward_models().items()
        }

    @abstractmethod
    def reward(self, case: Case, rewards: Mapping[str, float], scores: Scores | None) -> float:
        """Return the answer's reward. `rewards`: the rewards of the grader's parts. Raises GradingError."""

    def questions(self, case: Case) -> list[tuple[str, Messages]]:
        """Return every (reward model, messages) for which grading this answer calls `scores`. A caller can thus pass a
        batch of answers through the model at once, before it grades them. Messages that cannot be rendered are left
        out.
        """
        return [question for part in self.parts.values() for question in part.questions(case)]
