"""One attempt at preparing a job: convert its rows to arrays, and replace each "auto" in its recipe."""

from collections.abc import Sequence
from dataclasses import replace

import structlog

from api.infra.storage import ObjectCorrupt, ObjectMissing
from api.records import arrays, events, files, job_queue, jobs, workers
from api.records.arrays import Arrays
from api.records.workers import Worker
from api.spec.fields import AUTO
from api.spec.lifecycle import FailureReason, JobStatus, Stage
from api.spec.recipe import MIN_EXAMPLES, Recipe
from api.spec.resolve import (
    Labels,
    ResolvedRecipe,
    advise_on_length,
    resolve,
    resolve_max_length,
    warn_of_max_length,
)
from worker.shared.arrays import Rows, load_rows, split
from worker.shared.counts import workload
from worker.supervisor.attempt import AttemptContext
from worker.supervisor.estimates import Workloads, require_room
from worker.supervisor.faults import AttemptFailed
from worker.supervisor.prepare_child import FileReport, RequiredLabels, Source, run_prepare
from worker.supervisor.resolution import ResolutionInputs, parent_labels, resolution_inputs

log = structlog.get_logger(__name__)

CHANGED = (
    "The rows prepared for this job are damaged, and this version of the server reads the job's files differently. "
    "Create the job again."
)
FILES = {"train": "training", "validation": "validation"}
"""Names of the files in messages, by the names of their arrays."""
MAX_LISTED_ROWS = 5
"""How many overlong rows the error message lists."""
MAX_FINDINGS = 5
"""How many findings of each file become events."""


def prepare(attempt: AttemptContext) -> None:
    """Prepare the job and queue it for training. Raise AttemptFailed, StaleFence or StorageUnavailable if that
    fails."""
    labels = parent_labels(attempt)
    prepared = _prepared_arrays(attempt, labels)
    inputs = resolution_inputs(attempt, prepared["train"], labels)
    resolved, workloads, notes = _resolve(attempt, prepared, inputs)
    _queue_for_training(attempt, resolved, prepared, workloads, notes)


def fetch_arrays(attempt: AttemptContext) -> None:
    """Put the job's arrays into the run folder. Rebuild missing or damaged arrays from the job's files.

    Raises AttemptFailed, StaleFence, Interrupted, StorageUnavailable.
    """
    node, job, folder = attempt.node, attempt.job, attempt.folder
    with node.context.database.read() as session:
        known = {name: arrays.get(session, key) for name, key in job.arrays.items()}
    if all(stored is not None and _fetch_stored(attempt, stored, name) for name, stored in known.items()):
        return
    rebuild = replace(attempt, folder=folder / "prepare")
    rebuild.folder.mkdir()
    rebuilt = _prepared_arrays(rebuild, parent_labels(attempt))
    (folder / "data").mkdir(exist_ok=True)  # not created above if the database has no row of the arrays
    for name, stored in rebuilt.items():
        before = known[name]
        if before is not None and stored.sha256 != before.sha256:
            raise AttemptFailed(FailureReason.INTERNAL, CHANGED)
        file = f"data/{name}.safetensors"
        (rebuild.folder / file).replace(folder / file)
    keys = {name: stored.key for name, stored in rebuilt.items()}
    with node.context.database.write() as session:
        jobs.update_fenced(session, job.id, attempt.claim.fence, arrays=keys)


def _prepared_arrays(attempt: AttemptContext, labels: Labels | None) -> dict[str, Arrays]:
    """Put the arrays of each file into `data/` of the run folder, and return their rows in the database by "train" and
    "validation". Stored arrays are reused if they are intact."""
    sources = _sources(attempt, labels)
    prepared = {source.name: stored for source in sources if (stored := _reuse(attempt, source))}
    missing = [source for source in sources if source.name not in prepared]
    if missing:
        required = _required_labels(attempt, labels, prepared.get("train"))
        reports = run_prepare(attempt, missing, required)
        prepared |= {source.name: _store(attempt, source, reports[source.name]) for source in missing}
    return prepared


def _required_labels(attempt: AttemptContext, parent: Labels | None, train: Arrays | None) -> RequiredLabels:
    """Return the labels that rows must have: those of the parent model, or of a training file whose arrays are stored.
    Empty if there are neither."""
    if parent is not None:
        names = list(parent.names) or None
        return {"problem": parent.problem, "label_names": names, "by": f"the labels of {attempt.job.parent_model}"}
    return {} if train is None else {name: train.report.get(name) for name in ("problem", "label_names")}


def _sources(attempt: AttemptContext, labels: Labels | None) -> list[Source]:
    job = attempt.job
    requested = [("train", "training_file", job.training_file, MIN_EXAMPLES)]
    if job.validation_file is not None:
        requested.append(("validation", "validation_file", job.validation_file, 1))
    sources: list[Source] = []
    base = attempt.base
    with attempt.node.context.database.read() as session:
        for name, param, file_id, min_rows in requested:
            file = files.get_for_job(session, job.project_id, file_id)
            if file is None:
                raise AttemptFailed(
                    FailureReason.INVALID_FILE, f"No such File object: {file_id}", code="file_not_found", param=param
                )
            hashes = [*(source.file.sha256 for source in sources), file.sha256]
            key = arrays.content_key(job.project_id, hashes, attempt.recipe, base, labels)
            before = arrays.get(session, key)
            rendered_at = None if before is None else before.report.get("rendered_at")
            sources.append(Source(name, param, file, min_rows, key, rendered_at))
    return sources


def _reuse(attempt: AttemptContext, source: Source) -> Arrays | None:
    """Fetch the source's arrays if an earlier job stored them. Return None if there are none, or they are damaged or
    have too few rows."""
    with attempt.node.context.database.read() as session:
        stored = arrays.get(session, source.key)
    if stored is None or stored.report["rows"] < source.min_rows:
        return None  # with too few rows, prepare raises the error that names this file
    return stored if _fetch_stored(attempt, stored, source.name) else None


def _fetch_stored(attempt: AttemptContext, stored: Arrays, name: str) -> bool:
    """Fetch stored arrays into the run folder. Return False if the object is damaged or missing: an operator may have
    deleted it to make room."""
    path = attempt.folder / "data" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    try:
        attempt.node.storage.read_file(stored.storage_key, path, sha256=stored.sha256)
    except (ObjectMissing, ObjectCorrupt) as error:
        path.unlink(missing_ok=True)
        log.warning("arrays_rebuilt", key=stored.key, why=type(error).__name__)
        return False
    return True


def _store(attempt: AttemptContext, source: Source, report: FileReport) -> Arrays:
    project_id, context = attempt.job.project_id, attempt.node.context
    path = attempt.folder / "data" / f"{source.name}.safetensors"
    stored = context.storage.write_file(arrays.storage_key(project_id, source.key), path)
    with context.database.write() as session:
        return arrays.upsert(
            session,
            key=source.key,
            project_id=project_id,
            bytes_total=stored.bytes,
            sha256=stored.sha256,
            report=report,
        )


def _resolve(
    attempt: AttemptContext, prepared: dict[str, Arrays], inputs: ResolutionInputs
) -> tuple[ResolvedRecipe, Workloads, list[str]]:
    """Return the resolved recipe, the workloads of the rows that remain, and messages for the user about rows that were
    cut or left out."""
    recipe, job, window = attempt.recipe, attempt.job, attempt.base.facts["context_window"]
    max_length = resolve_max_length(
        recipe,
        longest_row=max(stored.report["longest_row"] for stored in prepared.values()),
        context_window=window,
    )
    notes = [warning] if (warning := warn_of_max_length(recipe, window)) else []
    kept: dict[str, Rows] = {}
    for name, stored in prepared.items():
        rows = load_rows(attempt.folder / "data" / f"{name}.safetensors")
        if recipe.training.overlong == "error":
            _require_fitting(rows, stored, name, max_length)
        rows, dropped, truncated = rows.truncate(max_length, drop=recipe.overlong == "drop")
        if name == "train" and recipe.training.validation_split:
            rows, kept["validation"] = split(rows, recipe.training.validation_split, job.seed)
        kept[name] = rows
        rows_of = f"of the {FILES[name]} rows are"
        if truncated:
            notes.append(f"{truncated} {rows_of} longer than {max_length} tokens and are cut at the end")
        if dropped:
            notes.append(f"{dropped} {rows_of} left out: each {_drop_reason(recipe, max_length)}")
    if not len(kept["train"]):
        raise AttemptFailed(
            FailureReason.INVALID_FILE,
            f"No row is left to train on: each {_drop_reason(recipe, max_length)}. "
            f"{advise_on_length(recipe, max_length, window)}",
            param="training.max_length",
        )
    resolved = resolve(
        recipe,
        job_id=job.id,
        seed=job.seed,
        max_length=max_length,
        train_rows=len(kept["train"]),
        validation_rows=len(kept["validation"]) if "validation" in kept else 0,
        **inputs,
    )
    validation = workload(kept["validation"]) if "validation" in kept else None
    return resolved, Workloads(workload(kept["train"]), validation), notes


def _drop_reason(recipe: Recipe, max_length: int) -> str:
    if recipe.overlong == "drop":
        return f"has more than {max_length} tokens, or no supervised token"
    if recipe.method.rollouts:
        return f"has more than {max_length} tokens, and prompts are never cut"
    return f"has no supervised token after it is cut to {max_length} tokens"


def _require_fitting(rows: Rows, stored: Arrays, name: str, max_length: int) -> None:
    """Raise AttemptFailed if rows are longer than `max_length`. The message lists the first of them."""
    overlong = rows.overlong(max_length)
    if not len(overlong):
        return
    per_row = stored.report["array_rows"] // max(1, stored.report["rows"]) or 1  # under kto, a pair is two array rows
    longest = (rows.ends - rows.starts).reshape(-1, rows.width).max(1)
    listed = ", ".join(
        f"row {int(row) // per_row + 1} with {int(longest[row]):,}" for row in overlong[:MAX_LISTED_ROWS]
    )
    more = f" and {len(overlong) - MAX_LISTED_ROWS:,} more" if len(overlong) > MAX_LISTED_ROWS else ""
    raise AttemptFailed(
        FailureReason.INVALID_FILE,
        f"Rows of the {FILES[name]} file are longer than {max_length:,} tokens: {listed}{more}. Shorten them, raise "
        "training.max_length up to the base model's context window, or set training.overlong to truncate or drop.",
        code="overlong_rows",
        param=f"{FILES[name]}_file",
    )


def _queue_for_training(
    attempt: AttemptContext,
    resolved: ResolvedRecipe,
    prepared: dict[str, Arrays],
    workloads: Workloads,
    notes: list[str],
) -> None:
    job, base, database = attempt.job, attempt.base, attempt.node.context.database
    tokens = workloads.train.tokens / workloads.train.rows * resolved.batch_size * resolved.total_steps
    with database.read() as session:
        live, known = workers.training(session), workers.training_lately(session)
    gpus = _needed_gpus(attempt.recipe, live, known)
    expected_s = require_room(known, base, resolved, workloads, gpu=gpus > 0)
    fields = resolved.model_dump(mode="json")
    with database.write() as session:
        for message in [*notes, *(line for name, stored in prepared.items() for line in _findings(name, stored))]:
            events.add_event(session, job.id, message, level="warn")
        jobs.transition(
            session,
            job.id,
            JobStatus.QUEUED,
            message="Files validated, moving job to queued state",
            fence=attempt.claim.fence,
            resolved=fields,
            arrays={name: stored.key for name, stored in prepared.items()},
            work=6.0 * base.facts["parameters"] * tokens,
            gpus=gpus,
            estimate={"rows": workloads.stored()},
            expected_s=expected_s,
            rung_at=None,
        )
        job_queue.end_attempt(session, attempt.claim, "prepared")
    attempt.node.context.doorbell.ring(Stage.TRAIN, job.id)


def _needed_gpus(recipe: Recipe, live: Sequence[Worker], known: Sequence[Worker]) -> int:
    """Return the number of GPUs that the job needs. Raise AttemptFailed if workers are known and none has as many.

    "auto" depends on the live workers only, because any worker takes a job that needs no GPU. A job that requests a GPU
    waits for a known worker that restarts, or for the first worker of a new server.
    """
    requested = recipe.resources.gpus
    if requested == AUTO:
        return min(1, max((worker.gpus for worker in live), default=0))
    if known and requested > max(worker.gpus for worker in known):
        raise AttemptFailed(FailureReason.INVALID_RECIPE, "No worker of this server has a GPU", param="resources.gpus")
    return requested


def _findings(name: str, stored: Arrays) -> list[str]:
    """Return the first findings of a file, as messages for events."""
    unit = "line" if stored.report["container"] == "jsonl" else "row"
    lines = []
    for finding in stored.report["findings"][:MAX_FINDINGS]:
        where = f", {unit} {finding['line']}" if finding["line"] else ""
        lines.append(f"{FILES[name]} file{where}: {finding['message']}")
    return lines
