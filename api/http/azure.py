"""Azure's way to the same calls: `/openai/…` or `/openai/v1/…`, an `api-key` header, and an `api-version` in the query.

The version is accepted and says nothing here: there is one version of every call, and it is the newest. A path that
names a deployment (`/openai/deployments/{name}/…`) is the path without it, and its name the model, where the body names
none. `trainingType`, which says in which of Azure's regions a job may train, says nothing here either. Among the
hyperparameters `prompt_loss_weight` is the option of `supervised`, and -1 of `n_epochs` and `batch_size` is "auto".
"""

import json
import re
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.spec.fields import AUTO

_MOUNT = re.compile(r"/openai(?:/v1)?(?:/deployments/(.+?(?=/(?:chat/)?completions$)|[^/]+))?(?=/)")
"""Names of models may hold slashes, which have been decoded here."""
_WITH_A_MODEL = ("/v1/chat/completions", "/v1/completions")
_JOBS = "/v1/fine_tuning/jobs"
_COUNTS = ("n_epochs", "batch_size")


class AzureMount:
    """Turns such a request into one of ours, before anything else looks at it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        mount = _MOUNT.match(scope["path"]) if scope["type"] == "http" else None
        if mount is not None:
            scope = {**scope, **_as_ours(scope, mount[0]), "azure_deployment": mount[1]}
        await self.app(scope, receive, send)


def _as_ours(scope: Scope, mount: str) -> dict[str, object]:
    headers = Headers(scope=scope)
    given = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    query = urlencode([(name, value) for name, value in given if name != "api-version"])
    raw = list(scope["headers"])
    if "authorization" not in headers and "api-key" in headers:
        raw.append((b"authorization", f"Bearer {headers['api-key']}".encode("latin-1")))
    path = "/v1" + scope["path"].removeprefix(mount)
    return {"path": path, "raw_path": path.encode(), "query_string": query.encode(), "headers": raw}


class AzureBody:
    """What their clients write into a body otherwise, as we do. Behind the limit on bodies: it reads them whole."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope.get("method") == "POST" and "azure_deployment" in scope else ""
        if path == _JOBS or (path in _WITH_A_MODEL and scope["azure_deployment"] is not None):
            receive = _changed(receive, scope["azure_deployment"])
        await self.app(scope, receive, send)


def _changed(receive: Receive, deployment: str | None) -> Receive:
    read = False

    async def receive_changed() -> Message:
        nonlocal read
        if read:
            return await receive()
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return message
            body += message.get("body", b"")
            more = message.get("more_body", False)
        read = True
        return {"type": "http.request", "body": _as_our_body(body, deployment), "more_body": False}

    return receive_changed


def _as_our_body(body: bytes, deployment: str | None) -> bytes:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return body  # which the route refuses in its own words
    if not isinstance(fields, dict):
        return body
    fields.pop("trainingType", None)
    if deployment is not None and fields.get("model") is None:
        fields["model"] = deployment
    try:
        return json.dumps(_with_our_hyperparameters(fields)).encode()
    except RecursionError:
        return body


def _with_our_hyperparameters(fields: dict[str, Any]) -> dict[str, Any]:
    asked = fields.get("hyperparameters")
    if not isinstance(asked, dict) or fields.get("method") is not None:
        return fields
    ours = {name: AUTO if name in _COUNTS and value == -1 else value for name, value in asked.items()}
    weight = ours.pop("prompt_loss_weight", None)
    if weight is None:
        return {**fields, "hyperparameters": ours}
    supervised = {"prompt_loss_weight": weight, "hyperparameters": ours}
    return {**fields, "hyperparameters": None, "method": {"type": "supervised", "supervised": supervised}}
