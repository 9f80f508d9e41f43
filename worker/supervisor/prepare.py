"""One attempt at preparing a job: rows to arrays, and every "auto" that depends on them to a number."""

from pathlib import Path
from typing import Any

import structlog

from api.infra.storage import Corrupt, ObjectMissing
from api.records import arrays, events, files, jobs, queue, workers
from api.records.arrays import Arrays
from api.records.base_models import BaseModelRow
from api.records.jobs import Job
from api.records.queue import Claim
from api.spec.lifecycle import FailureReason, JobStatus, Stage
from api.spec.recipe import MIN_EXAMPLES, Recipe
from api.spec.resolve import Labels, ResolvedRecipe, resolve, resolve_max_length
from worker.shared.arrays import Rows, load_rows, split
from worker.shared.counts import workload
from worker.supervisor.estimates import Workloads, require_room
from worker.supervisor.faults import AttemptFailed
from worker.supervisor.inputs import base_model
from worker.supervisor.lease import Heartbeat
from worker.supervisor.node import Node
from worker.supervisor.prepare_child import Source, run_child
from worker.supervisor.resolution import Settled, known_labels, settle

log = structlog.get_logger(__name__)

CHANGED = (
    "The rows that were prepared for this job are damaged, and this version of the server reads other rows from its "
    "files. Create the job again."
)
NAMED_ROWS = 5
"""Of those that are too long, in the message to the user."""


def prepare(node: Node, claim: Claim, job: Job, folder: Path, beat: Heartbeat) -> None:
    """Raises AttemptFailed, Stale, StorageUnavailable."""
    recipe, base = Recipe.model_validate(job.recipe), base_model(node, job)
    continued = known_labels(node, job, recipe)
    prepared = _made(node, job, recipe, base, continued, folder, beat)
    settled = settle(node, job, recipe, base, prepared["train"], continued)
    resolved, epoch, notes = _resolve(job, recipe, base, prepared, settled, folder)
    _finish(node, claim, job, recipe, base, resolved, prepared, epoch, notes)


def fetch_arrays(node: Node, claim: Claim, job: Job, base: BaseModelRow, folder: Path, beat: Heartbeat) -> None:
    """Put the job's arrays into the run folder it is trained in. Damaged ones are made again from its files.

    Raises AttemptFailed, Stale, Interrupted, StorageUnavailable.
    """
    with node.context.database.read() as session:
        known = {name: arrays.get(session, key) for name, key in job.arrays.items()}
    if all(found is not None and _fetched(node, found, name, folder) for name, found in known.items()):
        return
    recipe, again = Recipe.model_validate(job.recipe), folder / "prepare"
    again.mkdir()
    made = _made(node, job, recipe, base, known_labels(node, job, recipe), again, beat)
    for name, found in made.items():
        before = known[name]
        if before is not None and found.sha256 != before.sha256:
            raise AttemptFailed(FailureReason.INTERNAL, CHANGED)
        (again / "data" / f"{name}.safetensors").replace(folder / "data" / f"{name}.safetensors")
    with node.context.database.write() as session:
        jobs.update_fenced(session, job.id, claim.fence, arrays={name: found.key for name, found in made.items()})


def _made(
    node: Node, job: Job, recipe: Recipe, base: BaseModelRow, continued: Labels | None, folder: Path, beat: Heartbeat
) -> dict[str, Arrays]:
    """The arrays of each file of rows, in `data/`: those that are stored, as far as they are whole, else new ones."""
    sources = _sources(node, job, recipe, base, continued)
    prepared = {source.name: found for source in sources if (found := _known(node, source, folder))}
    missing = [source for source in sources if source.name not in prepared]
    if missing:
        labels = _decided(job, continued, prepared.get("train"))
        reports = run_child(node, job, recipe, base, missing, labels, folder, beat)
        prepared |= {source.name: _store(node, job, source, folder, reports[source.name]) for source in missing}
    return prepared


def _decided(job: Job, continued: Labels | None, train: Arrays | None) -> dict[str, Any]:
    """The labels that the rows must have (worker.rows.row_builder.Trained): the parent's, or the training file's."""
    if continued is not None:
        names = list(continued.names) or None
        return {"problem": continued.problem, "label_names": names, "by": f"the labels of {job.parent_model}"}
    return {} if train is None else {name: train.report.get(name) for name in ("problem", "label_names")}


def _sources(node: Node, job: Job, recipe: Recipe, base: BaseModelRow, continued: Labels | None) -> list[Source]:
    wanted = [("train", "training_file", job.training_file, MIN_EXAMPLES)]
    if job.validation_file is not None:
        wanted.append(("validation", "validation_file", job.validation_file, 1))
    sources: list[Source] = []
    with node.context.database.read() as session:
        for name, param, file_id, min_rows in wanted:
            file = files.get_for_job(session, job.project_id, file_id)
            if file is None:
                raise AttemptFailed(
                    FailureReason.INVALID_FILE, f"No such File object: {file_id}", code="file_not_found", param=param
                )
            hashes = [*(source.file.sha256 for source in sources), file.sha256]
            key = arrays.key_of(job.project_id, hashes, recipe, base, continued)
            sources.append(Source(name, param, file, min_rows, key))
    return sources


def _known(node: Node, source: Source, folder: Path) -> Arrays | None:
    """The arrays that an earlier job left, fetched; None where they have to be made."""
    with node.context.database.read() as session:
        found = arrays.get(session, source.key)
    if found is None or found.report["rows"] < source.min_rows:
        return None  # too few rows: prepare says so in the words for this file
    return found if _fetched(node, found, source.name, folder) else None


def _fetched(node: Node, found: Arrays, name: str, folder: Path) -> bool:
    """Whether the stored arrays are whole: an operator may have made room, or a disk damaged them."""
    path = folder / "data" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    try:
        node.context.storage.read_file(found.storage_key, path, sha256=found.sha256)
    except (ObjectMissing, Corrupt) as error:
        path.unlink(missing_ok=True)
        log.warning("arrays_made_again", key=found.key, why=type(error).__name__)
        return False
    return True


def _store(node: Node, job: Job, source: Source, folder: Path, report: dict[str, Any]) -> Arrays:
    stored = node.context.storage.write_file(
        f"arrays/{job.project_id}/{source.key}.safetensors", folder / "data" / f"{source.name}.safetensors"
    )
    with node.context.database.write() as session:
        return arrays.upsert(
            session,
            key=source.key,
            project_id=job.project_id,
            bytes_total=stored.bytes,
            sha256=stored.sha256,
            report=report,
        )


def _resolve(
    job: Job, recipe: Recipe, base: BaseModelRow, prepared: dict[str, Arrays], settled: Settled, folder: Path
) -> tuple[ResolvedRecipe, Workloads, list[str]]:
    """The numbers in place of each "auto", the rows that are left, and what the user should know of the cut."""
    max_length = resolve_max_length(
        recipe,
        longest_row=max(found.report["longest_row"] for found in prepared.values()),
        context_window=base.facts["context_window"],
    )
    notes = []
    kept: dict[str, Rows] = {}
    for name, found in prepared.items():
        rows = load_rows(folder / "data" / f"{name}.safetensors")
        if recipe.training.overlong == "error":
            _require_fitting(rows, found, name, max_length)
        rows, dropped, truncated = rows.truncate(max_length, drop=recipe.overlong == "drop")
        if name == "train" and recipe.training.validation_split:
            rows, kept["validation"] = split(rows, recipe.training.validation_split, job.seed)
        kept[name] = rows
        if truncated:
            notes.append(f"{truncated} of the {name} rows are longer than {max_length} tokens and are cut at the end")
        if dropped:
            notes.append(f"{dropped} of the {name} rows are left out: each {_why_dropped(recipe, max_length)}")
    if not len(kept["train"]):
        raise AttemptFailed(
            FailureReason.INVALID_FILE,
            f"No row is left to train on: every one {_why_dropped(recipe, max_length)}. Raise training.max_length.",
            param="training.max_length",
        )
    resolved = resolve(
        recipe,
        job_id=job.id,
        seed=job.seed,
        max_length=max_length,
        train_rows=len(kept["train"]),
        validation_rows=len(kept["validation"]) if "validation" in kept else 0,
        **settled,
    )
    validation = workload(kept["validation"]) if "validation" in kept else None
    return resolved, Workloads(workload(kept["train"]), validation), notes


def _why_dropped(recipe: Recipe, max_length: int) -> str:
    if recipe.overlong == "drop":
        return f"has more than {max_length} tokens, or none to learn from"
    if recipe.method.rollouts:
        return f"has more than {max_length} tokens, and prompts are never cut"
    return f"cut to {max_length} tokens, holds no token to learn from"


def _require_fitting(rows: Rows, found: Arrays, name: str, max_length: int) -> None:
    """Refuse the job where a row is longer, and say which."""
    longer = rows.overlong(max_length)
    if not len(longer):
        return
    each = found.report["array_rows"] // max(1, found.report["rows"]) or 1  # a pair is two rows of arrays under kto
    longest = (rows.ends - rows.starts).reshape(-1, rows.width).max(1)
    listed = ", ".join(f"row {int(row) // each + 1} with {int(longest[row]):,}" for row in longer[:NAMED_ROWS])
    more = f" and {len(longer) - NAMED_ROWS:,} more" if len(longer) > NAMED_ROWS else ""
    raise AttemptFailed(
        FailureReason.INVALID_FILE,
        f"Rows of the {name} file are longer than {max_length:,} tokens: {listed}{more}. Shorten them, raise "
        "training.max_length as far as the base model reads, or set training.overlong to truncate or drop.",
        code="overlong_rows",
        param=f"{'training' if name == 'train' else 'validation'}_file",
    )


def _finish(
    node: Node,
    claim: Claim,
    job: Job,
    recipe: Recipe,
    base: BaseModelRow,
    resolved: ResolvedRecipe,
    prepared: dict[str, Arrays],
    epoch: Workloads,
    notes: list[str],
) -> None:
    train = prepared["train"].report
    tokens = train["tokens"] / max(1, train["array_rows"]) * resolved.batch_size * resolved.total_steps
    with node.context.database.read() as session:
        available, live = workers.gpus_anywhere(session), list(workers.training(session))
    gpus = min(1, available) if recipe.resources.gpus == "auto" else recipe.resources.gpus
    if gpus > available:
        raise AttemptFailed(FailureReason.INVALID_RECIPE, "No worker of this server has a GPU", param="resources.gpus")
    require_room(live, base, resolved, epoch, gpu=gpus > 0)
    written = resolved.model_dump(mode="json")
    with node.context.database.write() as session:
        for note in notes:
            events.add_event(session, job.id, note, level="warn")
        for name, found in prepared.items():
            for finding in found.report["findings"][:5]:
                where = f", {_unit(found.report)} {finding['line']}" if finding["line"] else ""
                events.add_event(session, job.id, f"{name} file{where}: {finding['message']}", level="warn")
        jobs.transition(
            session,
            job.id,
            JobStatus.QUEUED,
            message="Files validated, moving job to queued state",
            fence=claim.fence,
            resolved=written,
            arrays={name: found.key for name, found in prepared.items()},
            work=6.0 * base.facts["parameters"] * tokens,
            gpus=gpus,
            estimate={"rows": epoch.stored()},
            rung_at=None,
        )
        queue.end_attempt(session, claim, "prepared")
    node.context.doorbell.ring(Stage.TRAIN, job.id)


def _unit(report: dict[str, Any]) -> str:
    """What a finding's number counts."""
    return "line" if report["container"] == "jsonl" else "row"
