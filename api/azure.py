"""Azure's way to the same calls: `/openai/…` or `/openai/v1/…`, an `api-key` header, and an `api-version` in the query.

The version is accepted and says nothing here: there is one version of every call, and it is the newest. A path that
names a deployment (`/openai/deployments/{name}/…`) is the path without it, as the body names the model.
"""

import re
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

_MOUNT = re.compile(r"/openai(?:/v1)?(?:/deployments/[^/]+)?(?=/)")


class AzureMount:
    """Turns such a request into one of ours, before anything else looks at it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        mount = _MOUNT.match(scope["path"]) if scope["type"] == "http" else None
        if mount is not None:
            scope = {**scope, **_as_ours(scope, mount[0])}
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
