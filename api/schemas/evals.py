"""Evals, their runs and output items as OpenAI's objects."""

import json
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field

from api.records.eval_items import EvalItem
from api.records.eval_runs import EvalRun
from api.records.evals import Eval
from api.schemas.common import ends
from api.schemas.stored import StoredJson, stored
from api.spec.evals.criteria import MAX_CRITERIA, Criterion
from api.spec.evals.data_source import CustomDataSource, DataSourceConfig
from api.spec.evals.run_source import RunSource
from api.spec.evals.status import ItemStatus, RunStatus
from api.spec.fields import NulFreeModel
from api.spec.recipe import Metadata

Name = Annotated[str, Field(max_length=512)]
PublicStatus = Literal["queued", "in_progress", "completed", "canceled", "failed"]


class EvalBody(NulFreeModel):
    data_source_config: DataSourceConfig
    testing_criteria: Annotated[list[Criterion], Field(min_length=1, max_length=MAX_CRITERIA)]
    name: Name = ""
    metadata: Metadata | None = None


class EvalChange(NulFreeModel):
    name: Name = ""
    metadata: Metadata | None = None

    @property
    def values(self) -> dict[str, object]:
        """The new values of the fields that the request gives, by column of the table."""
        named = {"name": self.name, "pairs": self.metadata}
        return {
            column: named[column]
            for column, field in (("name", "name"), ("pairs", "metadata"))
            if field in self.model_fields_set
        }


class RunBody(NulFreeModel):
    data_source: RunSource
    name: Name = ""
    metadata: Metadata | None = None


class EvalObject(BaseModel):
    id: str
    object: Literal["eval"] = "eval"
    created_at: int
    updated_at: int
    name: str
    data_source_config: StoredJson
    """The data source in OpenAI's form: `schema` is the JSON Schema of an object with `item` and, if answers are
    graded, `sample`."""
    testing_criteria: list[Annotated[StoredJson, stored("Criterion")]]
    metadata: dict[str, str] | None

    @classmethod
    def of(cls, row: Eval) -> Self:
        return cls(
            id=row.id,
            created_at=int(row.created_at),
            updated_at=int(row.updated_at),
            name=row.name,
            data_source_config=CustomDataSource.model_construct(**row.data_source).echo(),
            testing_criteria=row.criteria,
            metadata=row.pairs,
        )


class EvalList(BaseModel):
    object: Literal["list"] = "list"
    data: list[EvalObject]
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, rows: Sequence[Eval], has_more: bool) -> Self:
        return cls(data=[EvalObject.of(row) for row in rows], has_more=has_more, **ends(rows))


class DeletedEval(BaseModel):
    object: Literal["eval.deleted"] = "eval.deleted"
    deleted: Literal[True] = True
    eval_id: str


class DeletedRun(BaseModel):
    object: Literal["eval.run.deleted"] = "eval.run.deleted"
    deleted: Literal[True] = True
    run_id: str


class EvalError(BaseModel):
    """An error. If there is none, both texts are empty: openai-python's types require the object."""

    code: str = ""
    message: str = ""


class ResultCounts(BaseModel):
    total: int
    """Number of all items; 0 before the run's rows are read."""
    passed: int
    failed: int
    errored: int


class CriterionCounts(BaseModel):
    testing_criteria: str
    passed: int
    failed: int
    errored: int


class ModelUsage(BaseModel):
    model_name: str
    invocation_count: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: Literal[0] = 0


class RunObject(BaseModel):
    id: str
    object: Literal["eval.run"] = "eval.run"
    eval_id: str
    created_at: int
    name: str
    status: PublicStatus
    model: str
    """The model that is sampled; empty if the rows are graded as they are."""
    data_source: Annotated[StoredJson, stored("RunSource")]
    error: EvalError
    report_url: str
    """The run's page in the dashboard."""
    result_counts: ResultCounts
    per_testing_criteria_results: list[CriterionCounts]
    per_model_usage: list[ModelUsage]
    metadata: dict[str, str] | None

    @classmethod
    def of(cls, run: EvalRun, server: str) -> Self:
        """Return the run as OpenAI's object. `server`: the address of this server, for the run's page."""
        return cls(
            id=run.id,
            eval_id=run.eval_id,
            created_at=int(run.created_at),
            name=run.name,
            status=run.status,
            model=run.model or "",
            data_source=run.data_source,
            error=EvalError(**(run.error or {})),
            report_url=f"{server}/evals/{run.eval_id}?run={run.id}",
            result_counts=ResultCounts(total=run.total, passed=run.passed, failed=run.failed, errored=run.errored),
            per_testing_criteria_results=[
                CriterionCounts(testing_criteria=name, **counts) for name, counts in run.criteria_counts.items()
            ],
            per_model_usage=[
                ModelUsage(model_name=name, total_tokens=used["prompt_tokens"] + used["completion_tokens"], **used)
                for name, used in run.usage.items()
            ],
            metadata=run.pairs,
        )


class RunList(BaseModel):
    object: Literal["list"] = "list"
    data: list[RunObject]
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, rows: Sequence[EvalRun], has_more: bool, server: str) -> Self:
        return cls(data=[RunObject.of(row, server) for row in rows], has_more=has_more, **ends(rows))


class Result(BaseModel):
    """The grade that one criterion gave to the item."""

    name: str
    type: str
    passed: bool
    score: float
    sample: StoredJson | None
    """The messages to a judge and the judge's answer; null for criteria without a judge."""
    error: EvalError | None
    """Why the criterion could not grade the item; null if it could."""


class SampleMessage(BaseModel):
    role: str
    content: str
    tool_calls: list[StoredJson] | None = Field(default=None, exclude_if=lambda calls: calls is None)
    """The answer's calls of functions; omitted if there are none."""


class SampleUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: Literal[0] = 0


class Sample(BaseModel):
    """The graded answer, and the parameters with which it was sampled. For rows that are graded as they are, the
    parameters are 0 or empty."""

    error: EvalError
    """Why there is no answer; both texts are empty if there is one."""
    finish_reason: str
    input: list[SampleMessage]
    output: list[SampleMessage]
    model: str
    max_completion_tokens: int
    seed: int
    temperature: float
    top_p: float
    usage: SampleUsage


class OutputItemObject(BaseModel):
    id: str
    object: Literal["eval.run.output_item"] = "eval.run.output_item"
    eval_id: str
    run_id: str
    created_at: int
    status: ItemStatus
    datasource_item: StoredJson
    datasource_item_id: int
    """Number of the row, from 0."""
    results: list[Result]
    sample: Sample

    @classmethod
    def of(cls, item: EvalItem, run: EvalRun) -> Self:
        assert item.result is not None, item.id
        assert item.finished_at is not None, item.id
        return cls(
            id=item.id,
            eval_id=run.eval_id,
            run_id=run.id,
            created_at=int(item.finished_at),
            status=item.status,
            datasource_item=json.loads(item.row)["item"],
            datasource_item_id=item.line - 1,
            **item.result,
        )


class OutputItemList(BaseModel):
    object: Literal["list"] = "list"
    data: list[OutputItemObject]
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, rows: Sequence[EvalItem], has_more: bool, run: EvalRun) -> Self:
        return cls(data=[OutputItemObject.of(row, run) for row in rows], has_more=has_more, **ends(rows))


def as_run_status(status: PublicStatus | None) -> RunStatus | None:
    return None if status is None else RunStatus(status)
