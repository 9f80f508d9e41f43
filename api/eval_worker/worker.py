"""The evaluation worker, which reads the rows of new runs, grades their items and removes deleted runs."""

from anyio.to_thread import run_sync
from sqlalchemy.orm import Session

from api.background.postponed import Postponed
from api.background.worker import ItemWorker
from api.context import Context
from api.eval_worker import item, rows
from api.eval_worker.grading import NoJudgement, Ungraded
from api.records import eval_items
from api.records.eval_items import EvalItem, EvalItemClaim, Graded
from api.records.eval_runs import EvalRun
from api.records.item_queue import WorkClaim
from api.spec.evals.status import RunStatus


class EvalWorker(ItemWorker[EvalRun, EvalItem, Graded]):
    name = "evaluation"

    def __init__(self, context: Context) -> None:
        super().__init__(context, eval_items.QUEUE, at_once=context.settings.eval_items)

    async def answer(self, claim: EvalItemClaim) -> Graded:
        return await item.grade_item(self._context, claim)

    def finish(self, session: Session, claim: EvalItemClaim, result: Graded) -> bool:
        return eval_items.finish(session, claim, result)

    def postpone(self, session: Session, claim: EvalItemClaim, end: Postponed) -> None:
        if isinstance(end, Ungraded) and end.fault:
            eval_items.QUEUE.release(session, claim, end.wait_s, fault=True, result=end.kept)
        elif not isinstance(end, NoJudgement):
            super().postpone(session, claim, end)
        else:
            eval_items.wait_for_judge(session, claim, end.wait_s, end.reason, end.kept)

    def internal_error(self, claim: EvalItemClaim) -> Graded:
        return item.internal_error(claim)

    async def advance(self, claim: WorkClaim[EvalRun]) -> None:
        """Read the run's rows, or remove a deleted run."""
        if claim.work.status == RunStatus.DELETING:
            await run_sync(rows.remove, self._context, claim)
        else:
            await run_sync(rows.read, self._context, claim)
