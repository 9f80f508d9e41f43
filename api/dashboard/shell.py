"""The page that all addresses of the dashboard share, and its assets. Both are public: they contain no data.

The assets' address contains a hash of their content, so browsers keep them for ever and get new ones after an upgrade.
"""

import hashlib
from collections.abc import Awaitable, Callable
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import jinja2
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.dashboard.modules import ASSETS, CHART_MODULE, CHART_SCRIPT, needed_by
from api.dashboard.views import VIEWS
from api.http.middleware import NO_SNIFFING

FOLDER = Path(__file__).parent
CHARTS = ("youplot", "vendor")
"""Package, and the folder in it, with the released files of uPlot, which draws the charts."""
STYLES = ("uplot.min.css", "design.css")
"""Files that are served together as `style.css`, so that all styles take one request."""
SIGN_IN = "/sign-in"
"""Address of links that sign a browser in (api.services.sessions)."""
THEMES = ("light", "dark")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
    "vary": "cookie",
    **NO_SNIFFING,
}


def install(app: FastAPI) -> None:
    """Add the page and its assets to the app."""
    app.router.routes.extend(_routes())


@cache
def _routes() -> list[BaseRoute]:
    """Return the routes of the page and its assets. All apps of a process share them, since no setting changes them."""
    styles = "".join(_asset(name).read_text() for name in STYLES)

    async def style(request: Request) -> Response:
        return Response(styles, media_type="text/css")

    assets = Router([Route("/style.css", style), Mount("/", StaticFiles(directory=ASSETS, packages=[CHARTS]))])
    mount = Mount(_root(), Immutable(GZipMiddleware(assets, minimum_size=1024)))
    modules = {
        "/": VIEWS[0].name,
        SIGN_IN: VIEWS[0].name,
        **{f"/{view.name}": view.name for view in VIEWS},
        **{f"/{view.name}/{{id:path}}": view.item for view in VIEWS if view.item},
    }
    return [mount, *(Route(path, _shown(module), include_in_schema=False) for path, module in modules.items())]


def _shown(module: str) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of the addresses that a view's module shows."""
    modules = needed_by(module)
    script = CHART_SCRIPT if CHART_MODULE in modules else None
    pages = {theme: page_of("shell.html", theme, modules=modules, script=script) for theme in (None, *THEMES)}

    async def show(request: Request) -> Response:
        return pages[theme_of(request)].answer(request)

    return show


def is_page(path: str) -> bool:
    """Return whether the path is an address of the dashboard or of its assets."""
    first, _, rest = path.removeprefix("/").partition("/")
    if first in ("", "assets") or path == SIGN_IN:
        return True
    return any(view.name == first and (view.item or not rest) for view in VIEWS)


def theme_of(request: Request) -> str | None:
    """Return the theme that the reader chose; None if the browser's applies."""
    theme = request.cookies.get("theme")
    return theme if theme in THEMES else None


def page_of(template: str, theme: str | None, *, status: int = 200, **values: object) -> "Page":
    """Return a template as a page. All templates have the frame of `shell.html`."""
    frame = {"root": _root(), "views": VIEWS, "theme": theme, "version": version("attune")}
    return Page(_templates().get_template(template).render(**frame, **values), status)


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.FileSystemLoader(FOLDER), autoescape=True)


class Page:
    """HTML and its ETag. It is the same for everybody, except for the theme."""

    def __init__(self, html: str, status: int = 200) -> None:
        self.body, self.status = html.encode(), status
        self.etag = f'"{hashlib.sha256(self.body).hexdigest()[:16]}"'

    def answer(self, request: Request) -> Response:
        headers = {**PAGE_HEADERS, "etag": self.etag}
        if self.status == 200 and request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        return Response(self.body, self.status, media_type="text/html", headers=headers)


class Immutable:
    """Lets browsers cache each successful response for ever. Changed content has another address, because the address
    contains a hash of the content."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_lasting(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                headers = MutableHeaders(scope=message)
                headers["cache-control"] = "public, max-age=31536000, immutable"
                headers.update(NO_SNIFFING)
            await send(message)

        await self.app(scope, receive, send_lasting)


def _asset(name: str) -> Path:
    """Return one of our own assets, or one of uPlot's files."""
    own = ASSETS / name
    return own if own.exists() else _charts() / name


def _charts() -> Path:
    found = find_spec(CHARTS[0])
    assert found is not None, f"{CHARTS[0]} is not installed"
    assert found.origin is not None
    return Path(found.origin).parent / CHARTS[1]


@cache
def _root() -> str:
    """Return the address of the assets, with a hash of their content."""
    digest = hashlib.sha256()
    for folder in (ASSETS, _charts()):
        for path in sorted((*folder.rglob("*.js"), *folder.rglob("*.css"))):
            digest.update(path.name.encode() + path.read_bytes())
    return f"/assets/{digest.hexdigest()[:12]}"
