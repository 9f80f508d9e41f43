"""Evals: creation, changes, deletion and lists. The runs of evals are in api.services.eval_runs."""

import json
from collections.abc import Sequence
from functools import partial

from anyio.to_thread import run_sync

from api.context import Caller, Context
from api.errors import DO_NOT_RETRY, InvalidRequest, NotFound, TooManyRequests
from api.records import eval_runs, evals, projects
from api.records.base import db_now
from api.records.evals import Eval, OrderBy
from api.records.pages import Page
from api.services import graders, judges
from api.spec.evals.criteria import Criterion, templates
from api.spec.evals.data_source import CustomDataSource
from api.spec.graders.templates import namespaces
from api.spec.ids import new_id


class NoSuchEval(NotFound):
    param = "eval_id"

    def __init__(self, eval_id: str) -> None:
        super().__init__(f"No such eval: {eval_id[:64]}")


class BadCriterion(InvalidRequest):
    code = "invalid_criterion"


async def create(
    context: Context,
    caller: Caller,
    *,
    name: str,
    pairs: dict[str, str] | None,
    data_source: CustomDataSource,
    criteria: Sequence[Criterion],
    repeated: bool = False,
) -> Eval:
    """Insert an eval.

    `repeated`: the client marked the request as a retry. It gets the eval that the first request created, if there is
    one. Raise InvalidRequest if a criterion cannot be used, TooManyRequests if the project has too many evals, and
    PreviewFailed if the child process that loads the criteria's scripts exceeds its limits.
    """
    _require_names(criteria)
    _require_sample(data_source, criteria)
    for number, criterion in enumerate(criteria):
        graders.require_embedding_model(context, criterion, f"testing_criteria.{number}")
    if any(criterion.runs_script for criterion in criteria):
        await context.previews.run_in_turn(caller.project_id, partial(_require_scripts, context, criteria))
    row = Eval(
        id=new_id("eval_"),
        project_id=caller.project_id,
        name=name,
        pairs=pairs,
        data_source=data_source.model_dump(mode="json"),
        criteria=[criterion.model_dump(mode="json", exclude_none=True) for criterion in criteria],
        created_at=db_now(),
        updated_at=db_now(),
    )
    async with context.requests.turn(caller.project_id):
        await run_sync(_require_judges, context, caller, criteria)
        return await run_sync(_insert, context, caller, row, repeated)


def _require_names(criteria: Sequence[Criterion]) -> None:
    names = [criterion.name for criterion in criteria]
    for number, name in enumerate(names):
        if name in names[:number]:
            param = f"testing_criteria.{number}.name"
            raise BadCriterion(f"{param}: another criterion is named '{name[:64]}', too: names are unique", param=param)


def _require_sample(data_source: CustomDataSource, criteria: Sequence[Criterion]) -> None:
    """Raise BadCriterion if a template of a criterion uses the answer (`sample`), but the eval's items have none."""
    if data_source.include_sample_schema:
        return
    for number, criterion in enumerate(criteria):
        for path, template in templates(criterion):
            if "sample" in namespaces(template):
                param = f"testing_criteria.{number}.{path}"
                raise BadCriterion(
                    f"{param} refers to `sample`: set data_source_config.include_sample_schema to true", param=param
                )


def _require_scripts(context: Context, criteria: Sequence[Criterion]) -> None:
    request = {"task": "check_scripts", "criteria": [criterion.model_dump(mode="json") for criterion in criteria]}
    report = json.loads(context.previews.run("worker.evaluate", "request.json", request))
    if report["fault"] is not None:
        param = report["param"] or "testing_criteria"
        raise BadCriterion(f"{param}: {report['fault']}", param=param)


def _require_judges(context: Context, caller: Caller, criteria: Sequence[Criterion]) -> None:
    with context.database.read() as session:
        for number, criterion in enumerate(criteria):
            judges.require(context, session, caller, criterion, f"testing_criteria.{number}")


def _insert(context: Context, caller: Caller, row: Eval, repeated: bool) -> Eval:
    with context.database.write() as session:
        projects.lock(session, caller.project_id)
        if repeated and (first := evals.newest_like(session, row, context.settings.retried_create_s)):
            return first
        limit = context.settings.max_evals
        if evals.count(session, caller.project_id) >= limit:
            raise TooManyRequests(
                f"This server allows a project {limit} evals: delete some", code="too_many_evals", headers=DO_NOT_RETRY
            )
        session.add(row)
        session.flush()
        session.refresh(row)
    return row


def get(context: Context, caller: Caller, eval_id: str) -> Eval:
    with context.database.read() as session:
        row = evals.get(session, caller.project_id, eval_id)
    if row is None:
        raise NoSuchEval(eval_id)
    return row


def page(
    context: Context, caller: Caller, *, after: str | None, limit: int, newest_first: bool, order_by: OrderBy
) -> Page[Eval]:
    with context.database.read() as session:
        return evals.page(
            session, caller.project_id, after=after, limit=limit, newest_first=newest_first, order_by=order_by
        )


def update(context: Context, caller: Caller, eval_id: str, changes: dict[str, object]) -> Eval:
    """Set the columns in `changes`: the name (`name`), the metadata (`pairs`), or both."""
    with context.database.write() as session:
        row = evals.lock(session, caller.project_id, eval_id)
        if row is None:
            raise NoSuchEval(eval_id)
        for name, value in changes.items():
            setattr(row, name, value)
        if changes:
            evals.touch(session, row)
    return row


def delete(context: Context, caller: Caller, eval_id: str) -> None:
    """Delete the eval and its runs. A worker deletes the items of the runs later."""
    with context.database.write() as session:
        row = evals.lock(session, caller.project_id, eval_id)
        if row is None:
            raise NoSuchEval(eval_id)
        eval_runs.delete_of_eval(session, eval_id)
        if eval_runs.any_of_eval(session, eval_id):
            row.deleted_at = db_now()
        else:
            evals.remove(session, eval_id)
