"""A job as people read it: its fields, its current phase and its time left."""

from collections.abc import Iterable, Iterator
from time import time

from api.cli.client import Document
from api.cli.console import format_duration, format_size, format_time, plural

PHASES = {
    "loading": "Loading the base model",
    "training": "Training",
    "evaluating": "Evaluating",
    "saving": "Saving the state",
    "comparing": "Comparing with the base model",
    "exporting": "Exporting the model",
    "verifying": "Checking the published files",
    "storing": "Storing the model",
}
AFTER_TRAINING = ("comparing", "exporting", "verifying", "storing")
"""Phases that take no steps."""


def job_fields(job: Document, attempt: Document | None, last_step: Document | None) -> dict[str, object]:
    """Return the fields of a job that have a value.

    `attempt`: its last attempt. `last_step`: the metrics of its last step. None if there is none.
    """
    worker = attempt["worker"] if attempt else ""
    error = job.get("error") or {}
    fields: dict[str, object] = {
        "id": job["id"],
        "status": describe_status(job),
        "waits": describe_wait(job),
        "step": _step(job.get("progress") or {}),
        "time left": time_left(job),
        "host": worker.partition(":")[0],
        "worker": worker,
        "error": f"{error['message']} ({error['code']})" if error else None,
        "more about it": details_of_failure(job),
        "base model": job["model"],
        "fine-tuned model": job.get("fine_tuned_model"),
        "technique": _technique(job.get("technique") or {}),
        "method": (job.get("method") or {}).get("type"),
        "hyperparameters": ", ".join(f"{name} {value}" for name, value in (job.get("hyperparameters") or {}).items()),
        "learning rate": _learning_rate(job.get("training") or {}),
        "last step": ", ".join(describe_metrics(last_step)) if last_step else None,
        "cost": _cost(job.get("estimate") or {}),
        "trained tokens": f"{job['trained_tokens']:,}" if job.get("trained_tokens") else None,
        "evaluation": _evaluation(job.get("evaluation")),
        "evals": "; ".join(_eval_results(job.get("evals") or [])),
        "training file": job["training_file"],
        "validation file": job.get("validation_file"),
        "result files": ", ".join(job.get("result_files") or []),
        "seed": job.get("seed"),
        "created": format_time(job["created_at"]),
        "started": format_time(job["started_at"]) if job.get("started_at") else None,
        "finished": format_time(job["finished_at"]) if job.get("finished_at") else None,
    }
    return {name: value for name, value in fields.items() if value not in (None, "")}


def describe_status(job: Document) -> str:
    phase = describe_phase(job)
    return f"{job['status']}: {phase[:1].lower()}{phase[1:]}" if phase else str(job["status"])


def details_of_failure(job: Document) -> str | None:
    """Return the command that shows the cause of a failure in full; None for other jobs."""
    if job["status"] != "failed":
        return None
    file = job.get((job.get("error") or {}).get("param") or "")
    return f"attune files get {file}" if str(file).startswith("file-") else f"attune jobs log {job['id']}"


def describe_phase(job: Document) -> str | None:
    """Return the description of a running job's phase; None for other jobs."""
    if job.get("pause_requested"):
        return "Pausing: saves its state first"
    phase = (job.get("progress") or {}).get("phase")
    return PHASES.get(phase, phase) if phase and job["status"] == "running" else None


def wait_reason(job: Document) -> str | None:
    """Return why a job waits; None for other jobs."""
    return (job.get("queue") or {}).get("reason")


def describe_wait(job: Document) -> str | None:
    """Return why a job waits, and how long it may take until it starts; None if the server does not say."""
    queue = job.get("queue")
    if not queue:
        return None
    start = f"; starts in {_range_s(queue['expected_start'])}" if queue["expected_start"] else ""
    return f"{queue['reason']}{start}"


def time_left(job: Document) -> str | None:
    """Return the time until the server expects the job to end; None if it cannot tell."""
    finish = job.get("expected_finish")
    return _range_s(finish) if finish else None


def _range_s(expected: Document) -> str:
    """Return the time from now to the expected range of times, such as "2 min to 3 min 20 s"."""
    earliest_s, latest = max(0, expected["earliest"] - time()), expected["latest"]
    if latest is None:
        return f"{format_duration(earliest_s)} or more"
    latest_s = max(0, latest - time())
    if round(latest_s) <= max(5, earliest_s):
        return format_duration(latest_s)
    return f"{format_duration(earliest_s)} to {format_duration(latest_s)}"


def describe_metrics(metrics: Document) -> Iterator[str]:
    """Yield the losses, the reward, the learning rate and the speed of a step as text, if the step has them."""
    for name, words in (("train_loss", "loss"), ("valid_loss", "validation loss"), ("train_reward", "reward")):
        if metrics.get(name) is not None:
            yield f"{words} {metrics[name]:.4g}"
    if metrics.get("learning_rate") is not None:
        yield f"learning rate {metrics['learning_rate']:.3g}"
    if metrics.get("tokens_per_second") is not None:
        yield f"{metrics['tokens_per_second']:,.0f} tokens/s"


def describe_score(result: Document) -> str:
    """Return the score of a model by an eval, in percent, with a mark if no model of the job has a higher one."""
    score = "-" if result["score"] is None else f"{100 * result['score']:.1f} %"
    return f"{score} (best)" if result["best"] else score


def _eval_results(results: Iterable[Document]) -> Iterator[str]:
    """Yield the score of each model by each eval that has begun."""
    for result in results:
        if result.get("run_id"):
            yield f"{result['model']} {describe_score(result)} by {result['eval_id']}"


def _step(progress: Document) -> str | None:
    return f"{progress['step']} of {progress['total_steps']}" if progress.get("total_steps") else None


def _technique(technique: Document) -> str | None:
    sizes = [f"{name} {technique[name]}" for name in ("rank", "alpha", "quantization") if technique.get(name)]
    return ", ".join([technique["type"], *sizes]) if technique else None


def _learning_rate(training: Document) -> str | None:
    rate = training.get("learning_rate")
    if not isinstance(rate, (int, float)):
        return None if rate is None else str(rate)
    warmup = f", {plural(training['warmup_steps'], 'step')} of warm-up" if training.get("warmup_steps") else ""
    return f"{rate:g} at most, {training.get('scheduler', 'constant')}{warmup}"


def _cost(estimate: Document) -> str | None:
    """Return the predicted time and memory beside the actual ones."""
    predicted, actual = estimate.get("predicted"), estimate.get("actual")
    if not predicted:
        return None
    text = f"{format_duration(predicted['seconds'])} and {format_size(predicted['memory']['total'])} predicted"
    if not actual:
        return text
    return f"{text}, {format_duration(actual['seconds'])} and {format_size(actual.get('peak_bytes'))} measured"


def _evaluation(report: Document | None) -> str | None:
    """Return the metrics that both the base and the tuned model have, as "base → tuned"."""
    if not report:
        return None
    changes = [
        f"{name} {report['base'][name]:.4g} → {tuned:.4g}"
        for name, tuned in report["tuned"].items()
        if tuned is not None and report["base"].get(name) is not None
    ]
    return f"{', '.join(changes)} (base → tuned, {plural(report['rows'], report['drawn_from'] + ' row')})"
