"""What a job would take, and whether it would be allowed. Nothing is created."""

from collections.abc import Sequence
from typing import Any

from api.context import Caller, Context
from api.estimate.machine import Machine, Prediction, predict, refused_precision, too_large
from api.estimate.shapes import require_whole_blocks, shapes_of, trained_parameters, untrained_experts
from api.estimate.work import Workload
from api.records import jobs, workers
from api.records.workers import Worker
from api.services.lineage import Origin
from api.services.previews import PreviewQuery, RowsRefused, resolve_query, run_preview
from api.spec.methods.base import Problem
from api.spec.recipe import MIN_EXAMPLES, Recipe
from api.spec.resolve import Labels, ResolvedRecipe, resolve
from api.spec.target_modules import NoTargetModules

Reason = dict[str, str | None]


def estimate(context: Context, caller: Caller, recipe: Recipe) -> dict[str, Any]:
    """An answer for what can be trained and for what cannot. Raises InvalidRequest for what is not there."""
    question = resolve_query(context, caller, recipe)
    recipe = question.recipe
    with context.database.read() as session:
        active = jobs.active_count(session, caller.project_id)
        live = workers.training(session)
    able = _able(live, recipe)
    reasons = blocking_reasons(context, question, active, live)
    answer = _empty(recipe, question)
    if question.origin.technique is None and not question.refused:
        told = untrained_experts(recipe.technique, recipe.method, question.base.facts)
        answer["warnings"] = [] if told is None else [told]
    if refused := question.refused:
        return answer | {
            "reasons": [_reason(refused.code or "invalid_recipe", refused.message, refused.param), *reasons]
        }
    try:
        report = run_preview(context, question, "counts", names=[name for name, _ in question.files])
    except RowsRefused as rows_refused:
        reasons.insert(0, _reason(rows_refused.code or "invalid_file", rows_refused.message, rows_refused.param))
        return answer | {"reasons": reasons}
    counts = report["counts"]
    answer |= {name: _file_counts(found) for name, found in counts.items()}
    reasons += _of_rows(recipe, counts["train"])
    if not counts["train"]["kept_rows"]:
        return answer | {"reasons": reasons}
    wanted = recipe.export.wants_merged(question.base.facts["parameters"], context.settings.merged_max_parameters)
    merged = recipe.technique.merges and wanted
    resolved, train, validation = _resolved(recipe, counts, question.origin, merged=merged)
    answer |= _numbers(resolved, train)
    try:
        labels = len(resolved.labels.names) if resolved.labels else None
        answer["trained_parameters"] = trained_parameters(
            recipe.technique, recipe.method, question.base.facts, labels=labels or None
        )
        if able and not any(worker.gpus for worker in able):
            require_whole_blocks(recipe.technique, question.base.facts)
        machines = [workers.machine(worker) for worker in able]
        facts = question.base.facts
        predictions = [(machine, predict(resolved, facts, train, validation, machine)) for machine in machines]
    except NoTargetModules as no_place:
        return answer | {"reasons": [_reason("invalid_recipe", str(no_place), no_place.param), *reasons]}
    unsuited = [refused_precision(recipe.training.precision, machine) for machine in machines]
    if unsuited and all(unsuited):
        reasons.append(_reason("invalid_recipe", str(unsuited[0]), "training.precision"))
    return answer | _conclusion(reasons, predictions)


def blocking_reasons(context: Context, question: PreviewQuery, active: int, live: Sequence[Worker]) -> list[Reason]:
    reasons: list[Reason] = []
    limit = context.settings.max_active_jobs
    if active >= limit:
        message = f"This project already has {limit} jobs that have not ended, the most that this server allows"
        reasons.append(_reason("too_many_active_jobs", message))
    gpus = question.recipe.resources.gpus
    if gpus != "auto" and gpus > max((worker.gpus for worker in live), default=0):
        reasons.append(_reason("no_gpu", "No worker of this server has a GPU", "resources.gpus"))
    return reasons


def _of_rows(recipe: Recipe, train: dict[str, Any]) -> list[Reason]:
    reasons = []
    if train["rows"] < MIN_EXAMPLES:
        message = f"Training file has {train['rows']} example(s), but must have at least {MIN_EXAMPLES} examples"
        reasons.append(_reason("invalid_n_examples", message, "training_file"))
    if not train["kept_rows"]:
        message = f"No row is left to train on when all are cut to {train['max_length']} tokens"
        reasons.append(_reason("no_rows_left", message, "training.max_length"))
    if recipe.training.overlong == "error" and train["overlong"]:
        message = (
            f"{train['overlong']} rows are longer than {train['max_length']} tokens, and training.overlong is error"
        )
        reasons.append(_reason("overlong_rows", message, "training_file"))
    return reasons


def _resolved(
    recipe: Recipe, counts: dict[str, dict[str, Any]], origin: Origin, *, merged: bool
) -> tuple[ResolvedRecipe, Workload, Workload | None]:
    """The recipe with its numbers, and the rows that it trains and evaluates on."""
    train = _workload(counts["train"])
    validation = _workload(counts["validation"]) if "validation" in counts else None
    if share := recipe.training.validation_split:
        train, validation = _part(train, 1 - share), _part(train, share)
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


def _workload(counts: dict[str, Any]) -> Workload:
    return Workload(
        rows=counts["kept_rows"],
        width=counts["width"],
        tokens=counts["tokens"],
        supervised=counts["supervised_tokens"],
        lengths=tuple(counts["lengths"]),
    )


def _part(whole: Workload, share: float) -> Workload:
    rows, tokens, supervised = (max(1, round(each * share)) for each in (whole.rows, whole.tokens, whole.supervised))
    return Workload(rows, whole.width, tokens, supervised, whole.lengths)


def _labels(recipe: Recipe, count: int | None) -> Labels | None:
    if recipe.method.output != "labels":
        return None
    asked_for = recipe.method.problem
    found: Problem = "regression" if count is None else "single_label"
    problem = found if asked_for == "auto" else asked_for
    names = () if problem == "regression" else tuple(str(number) for number in range(count or 2))
    return Labels(problem=problem, names=names)


def _able(live: Sequence[Worker], recipe: Recipe) -> list[Worker]:
    """The workers that would take the job: those with a GPU if it needs one, as "auto" does where there are any."""
    with_gpu = [worker for worker in live if worker.gpus]
    return with_gpu if with_gpu and recipe.resources.gpus != 0 else list(live)


def _conclusion(reasons: list[Reason], predictions: list[tuple[Machine, Prediction]]) -> dict[str, Any]:
    fitting = [prediction for _, prediction in predictions if prediction.fits is not False]
    if predictions and not fitting:
        largest = max(machine.memory_bytes or 0 for machine, _ in predictions)
        reasons = [*reasons, _reason("does_not_fit", too_large(predictions[0][1], largest), "model")]
    best = min(fitting or [each for _, each in predictions], key=lambda each: each.seconds, default=None)
    return {
        "allowed": not reasons,
        "reasons": reasons,
        "memory": best.stored()["memory"] if best else None,
        "seconds": round(best.seconds) if best else None,
        "workers": [_worker(machine, prediction) for machine, prediction in predictions],
    }


def _worker(machine: Machine, prediction: Prediction) -> dict[str, Any]:
    found = prediction.stored()
    names = ("precision", "gradient_checkpointing", "micro_batch_tokens", "memory", "fits", "measured")
    return {name: found[name] for name in names} | {
        "device": "gpu" if machine.gpu else "cpu",
        "memory_available": machine.memory_bytes,
        "seconds": round(prediction.seconds),
    }


def _numbers(resolved: ResolvedRecipe, train: Workload) -> dict[str, Any]:
    rows = min(resolved.batch_size, train.rows)
    share = resolved.total_steps * rows / train.rows
    asked_for = ("max_length", "n_epochs", "batch_size", "learning_rate", "total_steps")
    return {name: getattr(resolved, name) for name in asked_for} | {"trained_tokens": round(share * train.tokens)}


def _file_counts(counts: dict[str, Any]) -> dict[str, Any]:
    same = ("rows", "kept_rows", "tokens", "supervised_tokens", "longest")
    return {name: counts[name] for name in same} | {
        "sampled_rows": counts["sampled"],
        "truncated_rows": counts["truncated"],
        "dropped_rows": counts["dropped"],
    }


def _empty(recipe: Recipe, question: PreviewQuery) -> dict[str, Any]:
    unknown = ("train", "validation", "trained_tokens", "trained_parameters", "memory", "seconds", "max_length")
    numbers = ("n_epochs", "batch_size", "learning_rate", "total_steps")
    return dict.fromkeys((*unknown, *numbers)) | {
        "allowed": False,
        "model": recipe.model,
        "parameters_exact": shapes_of(question.base.facts)[1],
        "workers": [],
        "warnings": [],
    }


def _reason(code: str, message: str, param: str | None = None) -> Reason:
    return {"code": code, "message": message, "param": param}
