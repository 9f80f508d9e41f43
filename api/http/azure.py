"""Azure's form of the API: paths below `/openai` or `/openai/v1`, an `api-key` header, an `api-version` in the query.

The version has no effect: Attune has only one version of each call. A deployment in the path
(`/openai/deployments/{name}/…`) is the model if the body names none. `trainingType`, the Azure regions where a job may
train, has no effect either. The hyperparameter `prompt_loss_weight` becomes an option of the method `supervised`,
and -1 as the value of `n_epochs` or `batch_size` becomes "auto".
"""

import json
import re
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.request_body import read_body, replay_body
from api.spec.fields import AUTO

_MOUNT = re.compile(r"/openai(?:/v1)?(?:/deployments/(.+?(?=/(?:chat/)?completions$)|[^/]+))?(?=/)")
"""Azure's prefix of a path, with the name of the deployment. The name may contain slashes: the path is already
decoded."""
_WITH_A_MODEL = ("/v1/chat/completions", "/v1/completions")
_JOBS = "/v1/fine_tuning/jobs"
_COUNTS = ("n_epochs", "batch_size")


class AzureMount:
    """Rewrites the path, query and headers of Azure's requests before all other middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        mount = _MOUNT.match(scope["path"]) if scope["type"] == "http" else None
        if mount is not None:
            scope = {**scope, **_rewritten_scope(scope, mount[0]), "azure_deployment": mount[1]}
        await self.app(scope, receive, send)


def _rewritten_scope(scope: Scope, mount: str) -> dict[str, object]:
    headers = Headers(scope=scope)
    given = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    query = urlencode([(name, value) for name, value in given if name != "api-version"])
    raw = list(scope["headers"])
    if "authorization" not in headers and "api-key" in headers:
        raw.append((b"authorization", f"Bearer {headers['api-key']}".encode("latin-1")))
    path = "/v1" + scope["path"].removeprefix(mount)
    return {"path": path, "raw_path": path.encode(), "query_string": query.encode(), "headers": raw}


class AzureBody:
    """Rewrites the bodies of Azure's requests. It reads whole bodies, so it runs after the middleware that limits their
    size."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope.get("method") == "POST" and "azure_deployment" in scope else ""
        if path == _JOBS or (path in _WITH_A_MODEL and scope["azure_deployment"] is not None):
            body = _rewritten_body(await read_body(receive), scope["azure_deployment"])
            receive = replay_body(body, receive)
        await self.app(scope, receive, send)


def _rewritten_body(body: bytes, deployment: str | None) -> bytes:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return body  # the route reports that it is not JSON
    if not isinstance(fields, dict):
        return body
    fields.pop("trainingType", None)
    if deployment is not None and fields.get("model") is None:
        fields["model"] = deployment
    try:
        return json.dumps(_with_hyperparameters(fields)).encode()
    except RecursionError:
        return body


def _with_hyperparameters(fields: dict[str, object]) -> dict[str, object]:
    requested = fields.get("hyperparameters")
    if not isinstance(requested, dict) or fields.get("method") is not None:
        return fields
    hyperparameters = {name: AUTO if name in _COUNTS and value == -1 else value for name, value in requested.items()}
    weight = hyperparameters.pop("prompt_loss_weight", None)
    if weight is None:
        return {**fields, "hyperparameters": hyperparameters}
    supervised = {"prompt_loss_weight": weight, "hyperparameters": hyperparameters}
    return {**fields, "hyperparameters": None, "method": {"type": "supervised", "supervised": supervised}}
