from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import AfterValidator

from api.context import Context
from api.http.deps import METADATA_PARAMETER, After, Ctx, MetadataFilter, Repeated, Who
from api.http.downloads import PARTIAL, Download, IfRangeHeader, RangeHeader, requested_bytes
from api.http.fair_route import FairRoute, answer_in_turn
from api.infra.artifacts import stream_tar, tar_size, with_relative_names
from api.schemas.common import errors
from api.schemas.job_history import AttemptList, CheckpointList
from api.schemas.jobs import JobList, JobObject
from api.schemas.stored import StoredJson, stored
from api.services import graders, job_evals, job_logs, jobs, models, waiting
from api.services.waiting import TimedJob
from api.spec.catalog import METHODS
from api.spec.job_filters import JobFilters
from api.spec.lifecycle import JobStatus
from api.spec.recipe import Recipe

router = APIRouter(prefix="/fine_tuning/jobs", tags=["fine-tuning"], route_class=FairRoute)

Limit = Annotated[int, Query(ge=1, le=1000)]


def _shown(context: Context, found: Sequence[TimedJob]) -> list[JobObject]:
    evals = job_evals.results(context, [timed.job for timed in found])
    return [JobObject.of(timed, context.settings.organization, evals[timed.job.id]) for timed in found]


@router.post("", response_model=JobObject, responses=errors(429))
async def create_job(recipe: Recipe, context: Ctx, caller: Who, repeated: Repeated) -> Response:
    """Create a job and queue it. Its files are validated, and every "auto" resolved, before it trains.

    A client's retry (`x-stainless-retry-count` of 1 or more) gets the job that its first request created.
    """
    await graders.require_scripts_in_turn(context, caller, recipe)

    def create() -> JobObject:
        job = jobs.submit(context, caller, recipe, repeated=repeated)
        return _shown(context, [waiting.timed(context, job)])[0]

    return await answer_in_turn(context, caller, create)


def _known_method(name: str | None) -> str | None:
    if name is not None and name not in METHODS:
        raise ValueError(f"no method has this name; there are {', '.join(METHODS)}")
    return name


MethodName = Annotated[
    str | None,
    AfterValidator(_known_method),
    Query(json_schema_extra={"anyOf": [{"enum": [*METHODS]}, {"type": "null"}]}),
]
ModelName = Annotated[
    str | None,
    Query(min_length=1, max_length=256, description="A base model, or the fine-tuned model that the jobs continue."),
]
Search = Annotated[str | None, Query(min_length=1, max_length=128, description="Part of an id or of a model's name.")]
Time = Annotated[int | None, Query(ge=0, le=2**53, description="Unix time of the creation.")]


@router.get("", openapi_extra={"parameters": [METADATA_PARAMETER]})
def list_jobs(
    context: Ctx,
    caller: Who,
    metadata: MetadataFilter,
    status: JobStatus | None = None,
    method: MethodName = None,
    model: ModelName = None,
    search: Search = None,
    created_after: Time = None,
    created_before: Time = None,
    after: After = None,
    limit: Limit = 20,
) -> JobList:
    """List jobs, newest first: those that pass all filters.

    `metadata[key]=value` selects jobs with that pair, `status` and `method` jobs with that status or method, `model`
    jobs on that base model or from that fine-tuned model, `search` jobs with that text in their id or in the name of
    their base model or fine-tuned model, `created_after` and `created_before` jobs of that time (the first second is
    included, the last is not).
    """
    filters = JobFilters(
        status=status,
        method=method,
        model=model,
        search=search,
        metadata=metadata,
        created_after=created_after,
        created_before=created_before,
    )
    page = jobs.page(context, caller, filters, after=after, limit=limit)
    return JobList(data=_shown(context, waiting.all_timed(context, page.data)), has_more=page.has_more)


@router.get("/{job_id}")
def retrieve_job(job_id: str, context: Ctx, caller: Who) -> JobObject:
    return _shown(context, [waiting.timed(context, jobs.get(context, caller, job_id))])[0]


@router.get("/{job_id}/recipe")
def retrieve_recipe(job_id: str, context: Ctx, caller: Who) -> Annotated[StoredJson, stored("Recipe")]:
    """Return the body of the request that created the job, with the job's seed.

    `POST /v1/fine_tuning/jobs` with this body trains the same model again.
    """
    return jobs.recipe(context, caller, job_id)


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, context: Ctx, caller: Who) -> JobObject:
    return _shown(context, [waiting.timed(context, jobs.cancel(context, caller, job_id))])[0]


@router.post("/{job_id}/pause")
def pause_job(job_id: str, context: Ctx, caller: Who) -> JobObject:
    """Pause a queued job at once, and a running job once its state is saved."""
    return _shown(context, [waiting.timed(context, jobs.pause(context, caller, job_id))])[0]


@router.post("/{job_id}/resume")
def resume_job(job_id: str, context: Ctx, caller: Who) -> JobObject:
    return _shown(context, [waiting.timed(context, jobs.resume(context, caller, job_id))])[0]


@router.get("/{job_id}/checkpoints")
def list_checkpoints(job_id: str, context: Ctx, caller: Who, after: After = None, limit: Limit = 10) -> CheckpointList:
    """List the job's checkpoints, newest first."""
    page = jobs.checkpoint_page(context, caller, job_id, after=after, limit=limit)
    evals = job_evals.results(context, [jobs.get(context, caller, job_id)])[job_id]
    return CheckpointList.of(page.data, page.has_more, evals)


@router.get("/{job_id}/attempts")
def list_attempts(job_id: str, context: Ctx, caller: Who) -> AttemptList:
    """List the job's attempts, oldest first: where and when it was prepared and trained, and how each attempt ended."""
    return AttemptList.of(jobs.attempts(context, caller, job_id))


@router.get("/{job_id}/log", response_class=PlainTextResponse)
def download_log(job_id: str, context: Ctx, caller: Who) -> StreamingResponse:
    """Return the logs of the job's trainers, attempt by attempt. The log of a running attempt lags by some seconds."""
    return StreamingResponse(
        job_logs.read(context, caller, job_id),
        media_type="text/plain; charset=utf-8",
        headers={"x-content-type-options": "nosniff"},
    )


@router.get("/{job_id}/adapter", response_class=Download, responses=PARTIAL)
def download_adapter(
    job_id: str,
    context: Ctx,
    caller: Who,
    format: models.ArtifactFormat = "adapter",
    wanted: RangeHeader = None,
    condition: IfRangeHeader = None,
) -> Download:
    """Download the published weights as an uncompressed tar, or only the bytes in a `Range` header, for example to
    resume a download. By default it has the trained weights only. With `format=merged` it has the whole model, and with
    `format=gguf` the whole model as a GGUF file. A header with several ranges is refused."""
    found = models.artifacts(context, caller, jobs.published_model(context, caller, job_id), format)
    artifacts = with_relative_names(found)
    size = tar_size(artifacts)
    part = requested_bytes(wanted, condition, size)
    ending = "" if format == "adapter" else f"-{format}"
    chunks = stream_tar(context.storage, artifacts, part)
    return Download(chunks, filename=f"{job_id}{ending}.tar", size=size, part=part)
