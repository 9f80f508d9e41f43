import json
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Annotated, Literal, cast

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.context import Caller, Context
from api.errors import InvalidRequest
from api.http.deps import After, Ctx, Who
from api.http.fair_route import FairRoute
from api.schemas.common import EVENT_STREAM, errors
from api.schemas.job_history import EventList, EventObject, MetricList, metric_list_body, metric_points
from api.services import event_stream, jobs, metrics
from api.services.event_stream import EventWatcher

router = APIRouter(prefix="/fine_tuning/jobs", tags=["fine-tuning"], route_class=FairRoute)

STREAM: dict[int | str, dict[str, object]] = errors(429) | {
    200: {"content": EVENT_STREAM},
    204: {"description": "The job has ended, and `Last-Event-ID` names its last event: no event will follow."},
}


@router.get("/{job_id}/events", response_model=EventList, responses=STREAM)
def list_events(
    job_id: str,
    request: Request,
    context: Ctx,
    caller: Who,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    type: Literal["message"] | None = None,
    stream: bool = False,
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> EventList | Response:
    """List a job's events, newest first. With `type=message`, the metrics of steps are left out.

    With `stream=true`, stream them as server-sent events, oldest first: all past events, or those after
    `Last-Event-ID`, then each new one. `data` is the event and `id` its id. The stream ends after the job's last event.
    A client resumes an interrupted stream with `Last-Event-ID`, without loss or repetition.
    """
    if stream:
        return _stream(request, context, caller, job_id, last_event_id)
    page = jobs.event_page(context, caller, job_id, messages_only=type == "message", after=after, limit=limit)
    return EventList(data=[EventObject.of(event) for event in page.data], has_more=page.has_more)


def _stream(request: Request, context: Context, caller: Caller, job_id: str, last_event_id: str | None) -> Response:
    for name in ("after", "limit", "type"):
        if name in request.query_params:
            raise InvalidRequest(
                f"{name} cannot be used with stream=true: send Last-Event-ID to begin after an event", param=name
            )
    after_seq = event_stream.begin(context, caller, job_id, last_event_id)
    if after_seq is None:
        return Response(status_code=204)
    watcher = cast(EventWatcher, request.app.state.watch)
    batches = _event_lines(watcher, caller, job_id, after_seq, context.settings.stream_keep_alive_s)
    return _Stream(watcher, caller.project_id, batches)


class _Stream(StreamingResponse):
    """A stream that takes its slot, one of a limited number, before its headers are sent. So concurrent requests cannot
    share the last slot."""

    media_type = "text/event-stream"

    def __init__(self, watcher: EventWatcher, project_id: str, content: AsyncIterator[str]) -> None:
        # Without the second header, nginx would hold events back.
        super().__init__(content, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self._watcher, self._project_id = watcher, project_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._watcher.stream_slot(self._project_id):
            await super().__call__(scope, receive, send)


async def _event_lines(
    watcher: EventWatcher, caller: Caller, job_id: str, after: int, keep_alive_s: float
) -> AsyncIterator[str]:
    async for batch in event_stream.follow(watcher, caller.key_id, job_id, after, keep_alive_s):
        yield (
            "".join(f"id: {event.id}\ndata: {json.dumps(EventObject.of(event).model_dump())}\n\n" for event in batch)
            or ": still here\n\n"
        )


@router.get("/{job_id}/metrics", response_model=MetricList)
def list_metrics(
    job_id: str,
    context: Ctx,
    caller: Who,
    max_points: Annotated[int | None, Query(ge=2, le=100_000)] = None,
) -> StreamingResponse:
    """List the metrics of every step, oldest first. If a step was trained again, its latest metrics are listed.

    With `max_points`, list at most that many steps: the first and the last, those with the lowest and highest value of
    every series if there is room, and those with the lowest and highest `train_loss` in each of several equal stretches
    of the job. Values are never interpolated. A job of 2,048 or more steps keeps 500 to 2,047 to choose from.
    """
    steps = metrics.select_steps(context, caller, job_id, max_points)
    batches = steps.batches()
    first = _points(context, next(batches, ()))  # before the response starts: an outage of the database is a 503
    body = metric_list_body(_in_turns(context, caller, first, batches), steps.total)
    return StreamingResponse(body, media_type="application/json")


async def _in_turns(
    context: Context, caller: Caller, first: bytes, batches: Iterable[Sequence[int]]
) -> AsyncIterator[bytes]:
    """Yield the first batch, then read and yield the others. Each has a turn of its own, which ends before the client
    gets the batch."""
    yield first
    for numbers in batches:
        async with context.requests.turn(caller.project_id, begun=True):
            points = await run_sync(_points, context, numbers)
        yield points


def _points(context: Context, numbers: Sequence[int]) -> bytes:
    return metric_points(metrics.read(context, numbers))
