"""The interface of a grader, the case that it grades, and the questions that it asks models. Torch-free."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from api.spec.fields import StrictModel

Name = Annotated[str, Field(min_length=1, max_length=256)]

Messages = list[dict[str, str]]
"""`[{"role", "content"}]`, the form of chat templates."""

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


EMBEDDING_MODEL = ""
"""The model of a question about the similarity of two texts: the operator's embedding model. The process that grades
loads it and answers the question itself."""


class GradingError(Exception):
    """One answer cannot be graded. Its reward is 0; the job continues."""

    def __init__(self, flag: Flag, message: str) -> None:
        super().__init__(message)
        self.flag: Flag = flag
        self.message = message


@dataclass(frozen=True)
class Sampling:
    """Options with which a chat model generates its judgement. None: the model's default."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    reasoning_effort: str | None = None


@dataclass(frozen=True)
class Question:
    """A conversation that a grader sends to a model: a reward model scores it, a chat model judges it. Or two texts
    that the operator's embedding model compares."""

    model: str
    messages: Messages
    labels: tuple[str, ...] | None = None
    """The labels of which the model chooses one. None: the model gives a number."""
    range: tuple[float, float] | None = None
    """The bounds of the number. None: 0 and 1 for a chat model, no bounds for a reward model."""
    sampling: Sampling = Sampling()

    @cached_property
    def key(self) -> str:
        """The hash of the question's content."""
        return content_hash([self.model, self.messages, self.labels, self.range, vars(self.sampling)])


def content_hash(content: object) -> str:
    """Return the SHA-256 of a JSON value, in hexadecimal digits."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Verdict:
    """A model's answer to a question, or the reason why there is none."""

    value: float | str | None = None
    """The number or the label. None: there is none, and `flag` and `message` give the reason."""
    flag: Flag = "model_grader_server_error"
    message: str = ""
    model: str = ""
    """The name that the model gave in its reply. It may differ from the name in the grader."""
    text: str = ""
    """The full text of a chat model's answer."""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @classmethod
    def of(cls, error: GradingError) -> "Verdict":
        return cls(flag=error.flag, message=error.message)

    @property
    def result(self) -> float | str:
        """The number or the label. Raises GradingError if there is none."""
        if self.value is None:
            raise GradingError(self.flag, self.message)
        return self.value


Verdicts: TypeAlias = Mapping[str, Verdict]
"""Verdicts by the keys of their questions."""


@dataclass(frozen=True)
class NamedModel:
    """A field of a grader that names a model."""

    name: str
    chat_only: str | None = None
    """Why only a chat model, and no reward model, can answer the grader's questions. None: a reward model can, too."""
    effort: bool = False
    """Whether the grader sets `reasoning_effort`, an option that only judges configured by the operator may have."""


@dataclass(frozen=True)
class Case:
    """An answer, and the row whose prompt it answers."""

    text: str
    item: Mapping[str, object]
    tools: Sequence[object] = ()
    """The answer's calls of functions, as OpenAI's `tool_calls`."""
    answered: bool = True
    """Whether the row has an answer. Rows of an eval without `include_sample_schema` may have none."""

    @property
    def choices(self) -> list[object]:
        """The answer in the form of a chat completion's `choices`."""
        message: dict[str, object] = {"role": "assistant", "content": self.text}
        if self.tools:
            message["tool_calls"] = [*self.tools]
        return [{"message": message}]

    @cached_property
    def json(self) -> object:
        """Return the answer parsed as JSON. Raises GradingError if it is not JSON."""
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
        """Whether the grader needs the verdicts of a model."""
        return any(part.needs_model for part in self.parts.values())

    @property
    def runs_script(self) -> bool:
        """Whether the grader runs a user's script. Such a grader may grade in a child process only."""
        return any(part.runs_script for part in self.parts.values())

    @property
    def embedding_fields(self) -> list[str]:
        """The paths of the fields that need the operator's embedding model."""
        return [f"graders.{name}.{path}" for name, part in self.parts.items() for path in part.embedding_fields]

    def faults(self) -> Mapping[str, str]:
        """Return {path of the field: what is wrong with the script}. The grader's scripts are loaded in their sandbox
        for this."""
        return {
            f"graders.{name}.{path}": fault
            for name, part in self.parts.items()
            for path, fault in part.faults().items()
        }

    def models(self) -> Mapping[str, NamedModel]:
        """Return {path of the field: model} for the models that the grader names."""
        return {
            f"graders.{name}.{path}": model
            for name, part in self.parts.items()
            for path, model in part.models().items()
        }

    @abstractmethod
    def reward(self, case: Case, rewards: Mapping[str, float], verdicts: Verdicts) -> float:
        """Return the answer's reward. `rewards`: the rewards of the grader's parts. Raises GradingError if the answer
        cannot be graded."""

    def questions(self, case: Case) -> list[Question]:
        """Return the questions whose verdicts are needed to grade this answer. A caller can thus ask the questions
        about a batch of answers at once, before it grades them. Questions that cannot be rendered are left out."""
        return [question for part in self.parts.values() for question in part.questions(case)]
