"""Start and removal of runs. At the start, a run's rows become items, or the run fails. Deleted runs are removed with
their items."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from sqlalchemy.orm import Session

from api.background.lines import LineTooLong, numbered_lines
from api.background.postponed import MAX_FAULTS
from api.context import Context
from api.infra.preview_process import PreviewFailed
from api.infra.storage import ObjectMissing
from api.records import eval_items, eval_runs, files, projects
from api.records.eval_items import QUEUE
from api.records.eval_runs import EvalRun
from api.records.evals import Eval
from api.records.item_queue import WorkClaim
from api.spec.evals.status import RunStatus

CHUNK = 500
"""Number of items that one transaction inserts or deletes."""


class RowsInvalid(Exception):
    """The rows cannot be graded, so the run fails with this error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.error = {"code": code, "message": message}


def read(context: Context, claim: WorkClaim[EvalRun]) -> None:
    """Insert the items of the run and set the run in progress, or fail the run. Raise StaleWork if the claim is lost.

    An earlier reading that was cut off may have inserted some items: they are removed, and all are inserted again.
    """
    try:
        with context.database.write() as session:
            _renew_for_check(context, session, claim)
            QUEUE.remove_items(session, claim.work.id)
            of_run = session.get_one(Eval, claim.work.eval_id)
        source = RowSource(context, claim.work)
        count = _check(context, claim, of_run, source)
        with context.database.read() as session:
            _require_room(context, session, claim, count)
        numbered = enumerate((line.decode() for line in source.lines()), start=1)
        for chunk in _chunks(numbered):
            with context.database.write() as session:
                QUEUE.renew(session, claim, context.settings.lease_s)
                eval_items.add(session, claim.work.id, chunk)
        with context.database.write() as session:
            projects.lock(session, claim.work.project_id)  # two runs at once could exceed the limit together
            _require_room(context, session, claim, count)
            run = QUEUE.lock_claimed(session, claim)
            run.total = count
            eval_runs.transition(session, run, RunStatus.IN_PROGRESS)
    except RowsInvalid as invalid:
        with context.database.write() as session:
            run = QUEUE.lock_claimed(session, claim)
            QUEUE.remove_items(session, run.id)
            eval_runs.transition(session, run, RunStatus.FAILED, error=invalid.error)


class RowSource:
    """The rows of a run as lines of JSON, from its file or from its request."""

    def __init__(self, context: Context, run: EvalRun) -> None:
        self.answers_are_given = run.model is None
        self._context, self._run = context, run

    def lines(self) -> Iterator[bytes]:
        """Yield the line of each row. Raise RowsInvalid if the file was deleted or a line is too long."""
        if self._run.input_file is None:
            for row in self._run.data_source["source"]["content"]:
                yield json.dumps(row).encode()
            return
        with self._context.database.read() as session:
            file = files.get_for_job(session, self._run.project_id, self._run.input_file)
        try:
            if file is None or file.storage_key is None:
                raise ObjectMissing(self._run.input_file)
            chunks = self._context.storage.read(file.storage_key)
            for _, _, line in numbered_lines(chunks, self._context.settings.max_body_bytes):
                yield line
        except ObjectMissing:
            raise RowsInvalid("file_not_found", f"The file {self._run.input_file} was deleted") from None
        except LineTooLong as error:
            raise RowsInvalid("row_too_large", f"line {error.number}: {error.message}") from None


def _renew_for_check(context: Context, session: Session, claim: WorkClaim[EvalRun]) -> None:
    """Extend the lease until after the time limit of the child process that checks the rows, because nothing renews the
    lease while it runs."""
    QUEUE.renew(session, claim, context.settings.lease_s + context.previews.longest_s)


def _check(context: Context, claim: WorkClaim[EvalRun], of_run: Eval, source: RowSource) -> int:
    """Return the number of rows, which a child process has checked against the eval's schema.

    Raise RowsInvalid, or StaleWork if the claim is lost. Raise PreviewFailed if the child process ended without a
    result and another one may give it, once the lease of this claim has expired.
    """

    def fill(folder: Path) -> None:
        with (folder / "rows.jsonl").open("wb") as rows:
            rows.writelines(line + b"\n" for line in source.lines())
        with context.database.write() as session:
            _renew_for_check(context, session, claim)

    config = of_run.data_source
    needs_answers = source.answers_are_given and config["include_sample_schema"]
    request = {"task": "check_rows", "item_schema": config["item_schema"], "needs_answers": needs_answers}
    try:
        report = json.loads(context.previews.run("worker.evaluate", "request.json", request, fill))
    except PreviewFailed:
        if claim.work.fence < MAX_FAULTS:  # the number of claims of a run whose rows are not read yet
            raise
        raise RowsInvalid("rows_not_checked", "The rows could not be checked within this server's limits") from None
    if report["fault"] is not None:
        where = f"row {report['line']}: " if report["line"] is not None else ""
        raise RowsInvalid("invalid_rows", f"{where}{report['fault']}")
    if not report["rows"]:
        raise RowsInvalid("no_rows", "The run has no rows")
    return int(report["rows"])


def _require_room(context: Context, session: Session, claim: WorkClaim[EvalRun], count: int) -> None:
    """Raise RowsInvalid if the run, or the runs of its project, have too many items."""
    limit, all_limit = context.settings.max_eval_items, context.settings.max_project_eval_items
    if count > limit:
        raise RowsInvalid("too_many_rows", f"The run has {count} rows, and a run may have {limit}: use several runs")
    others = eval_runs.items(session, claim.work.project_id)
    if others + count > all_limit:
        raise RowsInvalid(
            "item_limit_exceeded",
            f"The project's runs have {others} items, and this server allows {all_limit}: there is no room for {count} "
            "more. Delete a run",
        )


def _chunks(rows: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


def remove(context: Context, claim: WorkClaim[EvalRun]) -> None:
    """Delete the run and its items. If a user has deleted the eval and this was its last run, delete the eval's row,
    too."""
    removed = CHUNK
    while removed == CHUNK:
        with context.database.write() as session:
            QUEUE.renew(session, claim, context.settings.lease_s)
            removed = QUEUE.remove_items(session, claim.work.id, CHUNK)
    with context.database.write() as session:
        eval_runs.remove(session, QUEUE.lock_claimed(session, claim))
