"""Prometheus metrics for the operator. They cover all projects, so no project's API key gives access to them."""

import hmac
from typing import cast

from fastapi import APIRouter, Request, Response

from api.errors import NotFound, Unauthorized
from api.http.deps import Ctx
from api.services.monitoring import Monitor

router = APIRouter(include_in_schema=False)


@router.get("/metrics")
async def scrape(request: Request, context: Ctx) -> Response:
    _require_token(context.settings.metrics_token.get_secret_value(), request.headers.get("authorization", ""))
    monitor = cast(Monitor, request.app.state.monitor)
    body, content_type = await monitor.scrape(request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})


def _require_token(token: str, authorization: str) -> None:
    """Raise NotFound if the operator has set no token, and Unauthorized if the request has another token."""
    if not token:
        raise NotFound("Metrics are disabled: the operator enables them by setting ATTUNE_METRICS_TOKEN")
    kind, _, sent = authorization.partition(" ")
    if kind.lower() != "bearer" or not hmac.compare_digest(sent.strip().encode(), token.encode()):
        raise Unauthorized("Send ATTUNE_METRICS_TOKEN as `Authorization: Bearer TOKEN`")
