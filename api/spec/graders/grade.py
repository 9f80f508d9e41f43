"""The grading of one answer. It is pure: the same answer and row give the same grade, except for the measured time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from time import perf_counter
from types import MappingProxyType
from typing import Any

from api.spec.graders.base import Case, GraderBase, GradingError, Question, Verdicts


@dataclass(frozen=True)
class Errors:
    """The fields of OpenAI's `errors` object: the reasons why an answer cannot be graded, and details of some."""

    formula_parse_error: bool = False
    invalid_variable_error: bool = False
    """A template has a variable that the row, or the answer's JSON, does not have."""
    model_grader_parse_error: bool = False
    """The chat model gave no number in the range, or none of the labels."""
    model_grader_refusal_error: bool = False
    """The chat model refused to judge."""
    model_grader_server_error: bool = False
    """The model could not be asked, or the reward model returned no finite number."""
    model_grader_server_error_details: str | None = None
    other_error: bool = False
    """The formula has no finite value, for example after a division by zero."""
    python_grader_runtime_error: bool = False
    """The script raised an error, exceeded a limit, or returned no finite number."""
    python_grader_runtime_error_details: str | None = None
    python_grader_server_error: bool = False
    """The script ended the process that ran it."""
    python_grader_server_error_type: str | None = None
    sample_parse_error: bool = False
    """A template needs the answer's JSON, but the answer is not JSON."""
    truncated_observation_error: bool = False
    """A rendered template is too long to be graded."""
    unresponsive_reward_error: bool = False

    def __bool__(self) -> bool:
        return self.first is not None

    @property
    def first(self) -> str | None:
        """The name of the first reason, or None."""
        return next((field.name for field in fields(self) if getattr(self, field.name)), None)


@dataclass(frozen=True)
class Metadata:
    name: str
    type: str
    errors: Errors
    details: tuple[str, ...]
    """One sentence for each error."""
    execution_time: float
    """Measured time of the grading, in seconds."""
    scores: Mapping[str, float]
    """The rewards of a multi grader's parts."""
    token_usage: int | None = None
    """Tokens that chat models read and wrote; None if the grader asks no chat model."""
    sampled_model_name: str | None = None
    """The name that the model which judged first gave in its reply. It may differ from the name in the grader."""


@dataclass(frozen=True)
class Grade:
    reward: float
    """The reward; 0 after any error, even if other parts gave rewards. Without this rule, a formula that subtracts the
    reward of a failed part would reward an answer that cannot be graded."""
    metadata: Metadata
    sub_rewards: Mapping[str, float]
    tokens_by_model: Mapping[str, int]
    """Tokens that chat models read and wrote, by the name of the model in the grader."""

    @property
    def errors(self) -> Errors:
        return self.metadata.errors


def grade(
    grader: GraderBase,
    text: str | None,
    item: Mapping[str, object],
    *,
    tools: Sequence[object] = (),
    verdicts: Verdicts = MappingProxyType({}),
) -> Grade:
    """Return the grade of an answer to the prompt of a row.

    `text`: None if the row has no answer. `tools`: the answer's calls of functions. `verdicts`: the models' answers to
    the grader's questions about this answer.
    """
    began = perf_counter()
    case = Case(text or "", item, tools, answered=text is not None)
    problems = list[GradingError]()
    rewards = {name: _reward(part, case, {}, verdicts, problems) for name, part in grader.parts.items()}
    reward = 0.0 if problems else _reward(grader, case, rewards, verdicts, problems)
    questions = {question.key: question for question in grader.questions(case)}
    judged_by = [verdicts[key].model for key in questions if verdicts[key].model]
    tokens = _tokens_by_model(questions, verdicts)
    metadata = Metadata(
        name=grader.name,
        type=grader.type,
        errors=_errors(problems),
        details=tuple(dict.fromkeys(problem.message for problem in problems)),
        execution_time=perf_counter() - began,
        scores=rewards,
        token_usage=sum(tokens.values()) if tokens else None,
        sampled_model_name=judged_by[0] if judged_by else None,
    )
    return Grade(reward, metadata, rewards, tokens)


def _reward(
    grader: GraderBase, case: Case, rewards: Mapping[str, float], verdicts: Verdicts, problems: list[GradingError]
) -> float:
    try:
        return grader.reward(case, rewards, verdicts)
    except GradingError as problem:
        problems.append(problem)
        return 0.0


def _tokens_by_model(questions: Mapping[str, Question], verdicts: Verdicts) -> dict[str, int]:
    tokens: Counter[str] = Counter()
    for key, question in questions.items():
        tokens[question.model] += verdicts[key].prompt_tokens + verdicts[key].completion_tokens
    return {model: count for model, count in tokens.items() if count}


def _errors(problems: list[GradingError]) -> Errors:
    flags: dict[str, Any] = {problem.flag: True for problem in problems}
    details = {problem.flag: problem.message for problem in reversed(problems)}
    return Errors(
        **flags,
        model_grader_server_error_details=details.get("model_grader_server_error"),
        python_grader_runtime_error_details=details.get("python_grader_runtime_error"),
        python_grader_server_error_type=details.get("python_grader_server_error"),
    )
