from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from api.http.deps import Ctx, Who
from api.http.fair_route import FairRoute
from api.schemas.usage import UsageList
from api.services import usage

router = APIRouter(prefix="/usage", tags=["usage"], route_class=FairRoute)

Time = Annotated[int | None, Query(ge=0, le=253_402_300_799, description="Unix time, in seconds.")]
CSV: dict[int | str, dict[str, object]] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}


@router.get("", response_model=UsageList, responses=CSV)
def list_usage(
    request: Request,
    context: Ctx,
    caller: Who,
    start_time: Time = None,
    end_time: Time = None,
    group_by: Annotated[list[usage.Dimension] | None, Query(max_length=4)] = None,
    format: Literal["json", "csv"] | None = None,
) -> UsageList | Response:
    """List the project's usage of whole days (UTC), by default since the beginning of the month.

    `group_by` is `day` by default and may be repeated. With `group_by=project`, which needs a key of scope `operator`,
    the usage is that of all projects. The usage of an attempt counts on the day on which the attempt
    ends. Stored bytes are measured every five minutes. `format=csv`, or `Accept: text/csv`, returns a table.
    """
    lines = usage.summed(context, caller, start_time, end_time, group_by or ["day"])
    accepted = request.headers.get("accept", "").partition(";")[0].strip()
    if format == "csv" or (format is None and accepted == "text/csv"):
        return Response(usage.as_csv(lines), media_type="text/csv; charset=utf-8")
    return UsageList.of(lines, usage.budgets(context, caller))
