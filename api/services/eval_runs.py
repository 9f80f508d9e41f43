"""Runs of evals: creation, cancellation, deletion, lists and results. api/eval_worker grades their items."""

from sqlalchemy.orm import Session

from api.context import Caller, Context
from api.errors import DO_NOT_RETRY, InvalidRequest, NotFound, TooManyRequests
from api.records import eval_items, eval_runs, evals, projects
from api.records.base_models import BaseModelRow
from api.records.eval_items import QUEUE, EvalItem
from api.records.eval_runs import EvalRun
from api.records.item_queue import StaleWork
from api.records.pages import Page
from api.services import sampling
from api.services.evals import NoSuchEval
from api.services.files import require_usable
from api.services.sampling import TooManyTokens
from api.spec.evals.run_source import CompletionsSource, FileId, RunSource, SamplingParams
from api.spec.evals.status import UNFINISHED, ItemStatus, RunStatus

PURPOSE = "evals"


class NoSuchRun(NotFound):
    param = "run_id"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"No such run of this eval: {run_id[:64]}")


class NoSuchOutputItem(NotFound):
    param = "output_item_id"

    def __init__(self, item_id: str) -> None:
        super().__init__(f"No such output item of this run: {item_id[:64]}")


class RunEnded(InvalidRequest):
    """The run has ended. The HTTP status is 400, because OpenAI's clients retry a 409."""

    code = "invalid_run_state"

    def __init__(self, run: EvalRun) -> None:
        super().__init__(f"{run.id} is {run.status}: only a run that has not ended can be canceled")


def create(
    context: Context,
    caller: Caller,
    eval_id: str,
    *,
    name: str,
    pairs: dict[str, str] | None,
    source: RunSource,
    repeated: bool = False,
) -> EvalRun:
    """Insert a run. A worker reads its rows next.

    `repeated`: the client marked the request as a retry. It gets the run that the first request created, if there is
    one. Raise NoSuchEval, InvalidRequest for an unsuitable model, length or file, TooManyRequests for too many runs.
    """
    if isinstance(source, CompletionsSource):
        sampling.require_model(context, caller, source.model)
        with context.database.read() as session:
            base = sampling.base_of(session, caller, source.model)
        if base is not None:
            require_answers(context, base, source.sampling_params, "data_source.sampling_params", "data_source.model")
    stored = source.model_dump(mode="json", exclude_unset=True)
    with context.database.write() as session:
        projects.lock(session, caller.project_id)
        row = evals.lock(session, caller.project_id, eval_id)
        if row is None:
            raise NoSuchEval(eval_id)
        if repeated:
            within_s = context.settings.retried_create_s
            first = eval_runs.newest_like(
                session, eval_id, caller.key_id, stored, name=name, pairs=pairs, within_s=within_s
            )
            if first is not None:
                return first
        _require_few(context, session, caller)
        if isinstance(source.source, FileId):
            file_id, limit = source.source.id, context.settings.max_eval_bytes
            require_usable(session, caller, file_id, purpose=PURPOSE, param="data_source.source.id", max_bytes=limit)
        return eval_runs.add(session, row, caller.key_id, stored, name=name, pairs=pairs)


def require_answers(context: Context, base: BaseModelRow, params: SamplingParams, param: str, model_param: str) -> None:
    """Raise InvalidRequest if no answer of the run could be sampled: they may be longer than this server allows, or
    the base model has no chat template, or none for tools.

    `param`: the field of `params`. `model_param`: that of the model.
    """
    requested, longest = params.max_completion_tokens, context.settings.sample_max_tokens
    if requested is not None and requested > longest:
        raise TooManyTokens(f"{param}.max_completion_tokens", requested, longest)
    if not base.facts.get("chat_template", True):
        raise InvalidRequest(
            f"{model_param}: {base.name} has no chat template, so it cannot answer the items of an eval",
            param=model_param,
            code="no_chat_template",
        )
    if params.tools and not base.facts.get("tools", True):
        raise InvalidRequest(
            f"{param}.tools: the chat template of {base.name} has no place for tools, or writes calls in a form that "
            "Attune cannot read: leave tools out",
            param=f"{param}.tools",
            code="tools_not_supported",
        )


def _require_few(context: Context, session: Session, caller: Caller) -> None:
    limit = context.settings.max_active_eval_runs
    if eval_runs.active(session, caller.project_id) >= limit:
        raise TooManyRequests(
            f"This server allows a project {limit} unfinished runs of evals: wait for some to end, or cancel them",
            code="too_many_active_runs",
            headers=DO_NOT_RETRY,
        )
    kept_limit = context.settings.max_eval_runs
    if eval_runs.count(session, caller.project_id) >= kept_limit:
        raise TooManyRequests(
            f"This server keeps {kept_limit} runs of evals for a project: delete some, or ask its operator to set "
            "ATTUNE_KEEP_EVAL_RUNS_DAYS or a higher ATTUNE_MAX_EVAL_RUNS",
            code="too_many_eval_runs",
            headers=DO_NOT_RETRY,
        )


def get(context: Context, caller: Caller, eval_id: str, run_id: str) -> EvalRun:
    with context.database.read() as session:
        return _require(session, caller, eval_id, run_id)


def page(
    context: Context,
    caller: Caller,
    eval_id: str,
    *,
    status: RunStatus | None,
    after: str | None,
    limit: int,
    newest_first: bool,
) -> Page[EvalRun]:
    with context.database.read() as session:
        if evals.get(session, caller.project_id, eval_id) is None:
            raise NoSuchEval(eval_id)
        return eval_runs.page(session, eval_id, status=status, after=after, limit=limit, newest_first=newest_first)


def cancel(context: Context, caller: Caller, eval_id: str, run_id: str) -> EvalRun:
    """Cancel the run at once. The results so far are kept."""
    with context.database.write() as session:
        run = _locked(session, caller, eval_id, run_id)
        if run.status not in (*UNFINISHED, RunStatus.CANCELED):
            raise RunEnded(run)
        if run.status != RunStatus.CANCELED:
            eval_runs.transition(session, run, RunStatus.CANCELED)
    return run


def delete(context: Context, caller: Caller, eval_id: str, run_id: str) -> None:
    """Delete the run, even if it has not ended. A worker deletes its items later."""
    with context.database.write() as session:
        run = _locked(session, caller, eval_id, run_id)
        eval_runs.transition(session, run, RunStatus.DELETING)


def item(context: Context, caller: Caller, eval_id: str, run_id: str, item_id: str) -> tuple[EvalRun, EvalItem]:
    """Return a finished item with its run."""
    with context.database.read() as session:
        run = _require(session, caller, eval_id, run_id)
        found = eval_items.get(session, run.id, item_id)
    if found is None:
        raise NoSuchOutputItem(item_id)
    return run, found


def items(
    context: Context,
    caller: Caller,
    eval_id: str,
    run_id: str,
    *,
    status: ItemStatus | None,
    after: str | None,
    limit: int,
    newest_first: bool,
) -> tuple[EvalRun, Page[EvalItem]]:
    """Return a page of the run's finished items."""
    with context.database.read() as session:
        run = _require(session, caller, eval_id, run_id)
        found = eval_items.page(session, run.id, status=status, after=after, limit=limit, newest_first=newest_first)
    return run, found


def _require(session: Session, caller: Caller, eval_id: str, run_id: str) -> EvalRun:
    run = eval_runs.get(session, caller.project_id, eval_id, run_id)
    if run is None:
        raise NoSuchRun(run_id)
    return run


def _locked(session: Session, caller: Caller, eval_id: str, run_id: str) -> EvalRun:
    """Return the run, locked until the transaction ends. Raise NoSuchRun, also if the run was deleted meanwhile."""
    found = _require(session, caller, eval_id, run_id)
    try:
        run = QUEUE.lock(session, found.id)
    except StaleWork:
        raise NoSuchRun(run_id) from None
    if run.status == RunStatus.DELETING:
        raise NoSuchRun(run_id)
    return run
