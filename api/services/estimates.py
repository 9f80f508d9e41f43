"""Estimates of a job's memory and time before it is created, and the reasons why it would be refused."""

from collections.abc import Mapping, Sequence

from api.context import Caller, Context
from api.estimate.machine_fields import Machine, Prediction, predict, refused_precision, too_large
from api.estimate.shapes import require_whole_blocks, shapes_of, trained_parameters, untrained_experts
from api.estimate.work import Workload
from api.records import workers
from api.records.workers import Worker
from api.services import project_limits, waiting
from api.services.lineage import Origin
from api.services.previews import PreviewQuery, RowsRefused, resolve_query, run_preview
from api.spec.methods.base import Problem
from api.spec.preview_report import Counts, PreviewReport
from api.spec.recipe import MIN_EXAMPLES, Recipe
from api.spec.resolve import Labels, ResolvedRecipe, advise_on_length, resolve, warn_of_max_length
from api.spec.target_modules import NoTargetModules

Reason = dict[str, str | None]


def estimate(context: Context, caller: Caller, recipe: Recipe) -> dict[str, object]:
    """Estimate a job, whether or not it would be accepted. Raise InvalidRequest for a missing model or file."""
    query = resolve_query(context, caller, recipe)
    recipe = query.recipe
    with context.database.read() as session:
        reasons = [
            _reason(refusal.code or "rate_limit_exceeded", refusal.message)
            for refusal in project_limits.job_refusals(context, session, caller.project_id)
        ]
        live = workers.training(session)
    eligible = _eligible(live, recipe)
    if (gpus := recipe.resources.gpus) != "auto" and gpus > max((worker.gpus for worker in live), default=0):
        reasons.append(_reason("no_gpu", "No worker of this server has a GPU", "resources.gpus"))
    warnings = waiting.warnings(context)
    answer = _empty(recipe, query) | {"warnings": warnings}
    window = query.base.facts["context_window"]
    warnings += [warning] if (warning := warn_of_max_length(recipe, window)) else []
    if query.origin.technique is None and not query.refused:
        untrained = untrained_experts(recipe.technique, recipe.method, query.base.facts)
        warnings += [] if untrained is None else [untrained]
    if refused := query.refused:
        return answer | {
            "reasons": [_reason(refused.code or "invalid_recipe", refused.message, refused.param), *reasons]
        }
    try:
        report = run_preview(context, query, "counts", names=[name for name, _ in query.files])
    except RowsRefused as rows_refused:
        reasons.insert(0, _reason(rows_refused.code or "invalid_file", rows_refused.message, rows_refused.param))
        return answer | {"reasons": reasons}
    counts = report["counts"]
    answer |= {name: _file_counts(counted) for name, counted in counts.items()}
    warnings += _label_warnings(report, query)
    reasons += _row_reasons(recipe, counts["train"], window)
    if not counts["train"]["kept_rows"]:
        return answer | {"reasons": reasons}
    merged = recipe.publishes_merged(query.base.facts["parameters"], context.settings.merged_max_parameters)
    resolved, train, validation = _resolved(recipe, counts, query.origin, merged=merged)
    answer |= _numbers(resolved, train)
    try:
        labels = len(resolved.labels.names) if resolved.labels else None
        answer["trained_parameters"] = trained_parameters(
            recipe.technique, recipe.method, query.base.facts, labels=labels or None
        )
        if eligible and not any(worker.gpus for worker in eligible):
            require_whole_blocks(recipe.technique, query.base.facts)
        machines = [workers.machine(worker) for worker in eligible]
        facts = query.base.facts
        predictions = [(machine, predict(resolved, facts, train, validation, machine)) for machine in machines]
    except NoTargetModules as error:
        return answer | {"reasons": [_reason("invalid_recipe", str(error), error.param), *reasons]}
    unsuited = [refused_precision(recipe.training.precision, machine) for machine in machines]
    if unsuited and all(unsuited):
        reasons.append(_reason("invalid_recipe", str(unsuited[0]), "training.precision"))
    return answer | _outcome(reasons, predictions)


def _label_warnings(report: PreviewReport, query: PreviewQuery) -> list[str]:
    """Return the warning about labels that supervised training ignores, if a file has one. Prepared arrays have no rows
    to read again; the report of their preparation has the findings."""
    prepared = (found for stored in query.prepared.values() for found in stored.report["findings"])
    found = [each["message"] for each in (*report["findings"], *prepared) if each["code"] == "ignored_labels"]
    return found[:1]


def _row_reasons(recipe: Recipe, train: Counts, context_window: int) -> list[Reason]:
    reasons = []
    if train["rows"] < MIN_EXAMPLES:
        message = f"Training file has {train['rows']} example(s), but must have at least {MIN_EXAMPLES} examples"
        reasons.append(_reason("invalid_n_examples", message, "training_file"))
    if not train["kept_rows"]:
        advice = advise_on_length(recipe, train["max_length"], context_window)
        message = f"No row is left to train on after truncation to {train['max_length']:,} tokens. {advice}"
        reasons.append(_reason("no_rows_left", message, "training.max_length"))
    if recipe.training.overlong == "error" and train["overlong"]:
        message = (
            f"{train['overlong']} rows are longer than {train['max_length']} tokens, and training.overlong is error"
        )
        reasons.append(_reason("overlong_rows", message, "training_file"))
    return reasons


def _resolved(
    recipe: Recipe, counts: Mapping[str, Counts], origin: Origin, *, merged: bool
) -> tuple[ResolvedRecipe, Workload, Workload | None]:
    """Return the resolved recipe, and the numbers of rows and tokens for training and for evaluation."""
    train = _workload(counts["train"])
    validation = _workload(counts["validation"]) if "validation" in counts else None
    if share := recipe.training.validation_split:
        train, validation = _share_of(train, 1 - share), _share_of(train, share)
    resolved = resolve(
        recipe,
        job_id="estimate",
        seed=recipe.seed or 0,
        max_length=counts["train"]["max_length"],
        train_rows=train.rows,
        validation_rows=validation.rows if validation else 0,
        labels=origin.labels or _labels(recipe, counts["train"]["labels"]),
        base_model=origin.base_weights or origin.base.name,
        merged=merged,
    )
    return resolved, train, validation


def _workload(counts: Counts) -> Workload:
    return Workload(
        rows=counts["kept_rows"],
        width=counts["width"],
        tokens=counts["tokens"],
        supervised=counts["supervised_tokens"],
        lengths=tuple(counts["lengths"]),
    )


def _share_of(workload: Workload, share: float) -> Workload:
    rows, tokens, supervised = (
        max(1, round(count * share)) for count in (workload.rows, workload.tokens, workload.supervised)
    )
    return Workload(rows, workload.width, tokens, supervised, workload.lengths)


def _labels(recipe: Recipe, count: int | None) -> Labels | None:
    if recipe.method.output != "labels":
        return None
    requested = recipe.method.problem
    detected: Problem = "regression" if count is None else "single_label"
    problem = detected if requested == "auto" else requested
    names = () if problem == "regression" else tuple(str(number) for number in range(count or 2))
    return Labels(problem=problem, names=names)


def _eligible(live: Sequence[Worker], recipe: Recipe) -> list[Worker]:
    """Return the workers for which to predict the job: those with a GPU if there are any, unless the job asks for no
    GPU."""
    with_gpu = [worker for worker in live if worker.gpus]
    return with_gpu if with_gpu and recipe.resources.gpus != 0 else list(live)


def _outcome(reasons: list[Reason], predictions: list[tuple[Machine, Prediction]]) -> dict[str, object]:
    fitting = [prediction for _, prediction in predictions if prediction.fits is not False]
    if predictions and not fitting:
        largest = max(machine.memory_bytes or 0 for machine, _ in predictions)
        reasons = [*reasons, _reason("does_not_fit", too_large(predictions[0][1], largest), "model")]
    best = min(
        fitting or [prediction for _, prediction in predictions],
        key=lambda prediction: prediction.seconds,
        default=None,
    )
    return {
        "allowed": not reasons,
        "reasons": reasons,
        "memory": best.stored()["memory"] if best else None,
        "seconds": round(best.seconds) if best else None,
        "workers": [_worker(machine, prediction) for machine, prediction in predictions],
    }


def _worker(machine: Machine, prediction: Prediction) -> dict[str, object]:
    stored: Mapping[str, object] = prediction.stored()
    names = ("precision", "gradient_checkpointing", "micro_batch_tokens", "memory", "fits", "measured")
    return {name: stored[name] for name in names} | {
        "device": "gpu" if machine.gpu else "cpu",
        "memory_available": machine.memory_bytes,
        "seconds": round(prediction.seconds),
    }


def _numbers(resolved: ResolvedRecipe, train: Workload) -> dict[str, object]:
    rows = min(resolved.batch_size, train.rows)
    share = resolved.total_steps * rows / train.rows
    names = ("max_length", "n_epochs", "batch_size", "learning_rate", "total_steps")
    return {name: getattr(resolved, name) for name in names} | {"trained_tokens": round(share * train.tokens)}


def _file_counts(counts: Counts) -> dict[str, object]:
    return {
        "rows": counts["rows"],
        "sampled_rows": counts["sampled"],
        "kept_rows": counts["kept_rows"],
        "truncated_rows": counts["truncated"],
        "dropped_rows": counts["dropped"],
        "tokens": counts["tokens"],
        "supervised_tokens": counts["supervised_tokens"],
        "longest": counts["longest"],
        "lengths": counts["histogram"],
    }


def _empty(recipe: Recipe, query: PreviewQuery) -> dict[str, object]:
    unknown = ("train", "validation", "trained_tokens", "trained_parameters", "memory", "seconds", "max_length")
    numbers = ("n_epochs", "batch_size", "learning_rate", "total_steps")
    return dict.fromkeys((*unknown, *numbers)) | {
        "allowed": False,
        "model": recipe.model,
        "parameters_exact": shapes_of(query.base.facts)[1],
        "workers": [],
    }


def _reason(code: str, message: str, param: str | None = None) -> Reason:
    return {"code": code, "message": message, "param": param}
