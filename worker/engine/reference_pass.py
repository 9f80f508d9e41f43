"""The pass of the reference over the rows, before the first step. It may take hours, so that a pause or stop ends it at
once, and what it has computed is saved every few minutes."""

import time
from contextlib import suppress
from pathlib import Path

from worker.engine.data import Data
from worker.engine.interruptible import interruptible
from worker.engine.model.lora import base_alone
from worker.engine.objective import Objective
from worker.engine.saving.identity import recipe_digest
from worker.engine.saving.training_state import Progress, begin_state, save_references, saved_progress
from worker.shared.judgements import Interrupted
from worker.shared.pipe import Pipe
from worker.shared.reports import StateReport

SAVE_S = 600.0
"""Seconds between two saved states."""
PASS_SHARE = 20.0
"""The pause between two saved states is at least this many times as long as the saving of the first one."""


def compute_references(run: Path, data: Data, objective: Objective, pipe: Pipe) -> None:
    """Compute the reference's log-probabilities that the prepared data lacks. The model must have the weights of step
    0. After a pause or stop command, return at once; the data then keeps what was computed until then."""
    saved = saved_progress(run / "resume")
    if saved is not None:  # rows are packed as in the attempt that ran out of memory, whose results differ by rounding
        objective.budget_tokens = min(objective.budget_tokens, saved.micro_batch_tokens)
    may_save = saved is None or saved.step == 0  # a state of step 0 must not replace a later one
    save_at_s = time.monotonic() + SAVE_S

    def save_if_due() -> None:
        nonlocal save_at_s
        begin_s = time.monotonic()
        if may_save and begin_s >= save_at_s:
            with pipe.working():
                _save_state(run, data, objective, pipe)
            end_s = time.monotonic()
            save_at_s = end_s + max(SAVE_S, PASS_SHARE * (end_s - begin_s))

    model = objective.model
    with suppress(Interrupted), interruptible(model, pipe), base_alone(model.without_update):
        data.compute_references(objective, pipe.warn, save_if_due)


def _save_state(run: Path, data: Data, objective: Objective, pipe: Pipe) -> None:
    """Save and report a state of step 0 with the log-probabilities that were computed until now."""
    out = run / "out"
    finish = begin_state(
        out / "states",
        Progress(micro_batch_tokens=objective.budget_tokens),
        dict(objective.model.masters),
        {},
        recipe_digest(run),
        best=None,
        references=save_references(data.references, out),
    )
    pipe.report(StateReport(step=0, path=str(finish().relative_to(run))))
