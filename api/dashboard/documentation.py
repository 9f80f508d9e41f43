"""The pages of docs/ at `/docs/NAME`, rendered on the server. They are public, need no script and load nothing else.

Anchors of headings equal those of the site that `make site` builds.
"""

import posixpath
import re
import threading
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import anyio
from fastapi import FastAPI
from markdown_it import MarkdownIt
from markdown_it.token import Token
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.dashboard.code_colors import colored
from api.dashboard.document_search import Passage, passages, plain, search
from api.dashboard.reference import pages as reference_pages
from api.dashboard.shell import Page, page_of, theme_of
from api.errors import TooManyRequests
from api.services.project_limits import RequestRate

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
"""Pages outside of docs/, with their names among the pages. In the wheel, they and `NAVIGATION` are in docs/."""
NAVIGATION = "zensical.toml"
REFERENCE = ("endpoints", "objects")
"""Pages that are generated from the OpenAPI document."""
SEARCHES_PER_S = 2
"""Rate limit of searches from one address, which need no key and take milliseconds of a thread."""
THREADS = 2
"""Number of threads that show pages and search, besides those of requests to the API."""
OWN_BY_SECTION = ("metrics",)
"""Pages where a name has another meaning in each section. Their anchors of names begin with the section's."""

_EXTERNAL = re.compile(r"[a-z]+:", re.IGNORECASE)


@dataclass(frozen=True)
class Heading:
    anchor: str
    title: str


@dataclass(frozen=True)
class Document:
    title: str
    html: str
    sections: tuple[Heading, ...]
    """The headings of the second level."""
    passages: tuple[Passage, ...]
    """The texts that are searched."""


Navigation = tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
"""Groups of pages in the order of the site: each a title, and the titles and names of its pages."""


def install(app: FastAPI) -> None:
    """Add the pages to the app."""
    compressed = [Middleware(GZipMiddleware, minimum_size=1024, compresslevel=4)]
    show = Reading(app).show
    for path in ("/docs", "/docs/{name:path}"):
        app.router.routes.append(Route(path, show, include_in_schema=False, middleware=compressed))


class Reading:
    """The documentation of an app for its readers. They need no key, so they share a few threads, which are none of
    those that requests to the API use. Each page is rendered once."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._searches = RequestRate(SEARCHES_PER_S, "one address", burst_s=10)
        self._threads = anyio.CapacityLimiter(THREADS)
        self._documents: dict[str, Document] = {}
        self._rendering = threading.Lock()
        self._pages: dict[tuple[str, str | None], Page] = {}
        """{(name of a page, theme): the finished page}."""

    async def show(self, request: Request) -> Response:
        return await anyio.to_thread.run_sync(self._answer, request, limiter=self._threads)

    def _answer(self, request: Request) -> Response:
        theme, query = theme_of(request), request.query_params.get("q", "")
        if not query.strip():
            return self._page(request.path_params.get("name") or "index", theme).answer(request)
        try:
            self._searches.take(request.client.host if request.client else "")
        except TooManyRequests as refusal:
            response = _framed(theme, status=refusal.status, query=query, refusal=refusal.message).answer(request)
            response.headers.update(refusal.headers)
            return response
        results = search({name: self._document(name).passages for name in titles()}, query)
        return _framed(theme, query=query, results=results, titles=titles()).answer(request)

    def _page(self, name: str, theme: str | None) -> Page:
        if name not in titles():
            return _framed(theme, status=404, name=name)
        if (name, theme) not in self._pages:
            self._pages[name, theme] = _framed(theme, name=name, document=self._document(name))
        return self._pages[name, theme]

    def _document(self, name: str) -> Document:
        with self._rendering:  # the first readers after a start would otherwise each render the same pages
            if name not in self._documents:
                self._documents[name] = render(name, _text(self._app, name))
            return self._documents[name]


def _framed(theme: str | None, *, status: int = 200, **values: object) -> Page:
    """Return a page of the documentation. `values`: of the template."""
    return page_of("document.html", theme, status=status, navigation=navigation(), address=address, **values)


def is_document(path: str) -> bool:
    return path == "/docs" or path.startswith("/docs/")


def address(name: str) -> str:
    return "/docs" if name == "index" else f"/docs/{name}"


@cache
def navigation() -> Navigation:
    """Return the pages that this installation has."""
    nav = tomllib.loads(_file(NAVIGATION).read_text(encoding="utf-8"))["project"]["nav"]
    return tuple(
        (group, tuple((title, file.removesuffix(".md")) for entry in entries for title, file in entry.items()))
        for part in nav
        for group, entries in part.items()
    )


@cache
def titles() -> Mapping[str, str]:
    """Return {name of each page: its title}, in the order of the navigation."""
    return {name: title for _, pages in navigation() for title, name in pages}


def _text(app: FastAPI, name: str) -> str:
    return reference_pages(app.openapi())[f"{name}.md"] if name in REFERENCE else _file(f"{name}.md").read_text("utf-8")


def _file(name: str) -> Path:
    """Return a file of docs/. In a checkout, some of them are in the folder above, under another name."""
    inside = DOCS / name
    outside = {target: source for source, target in OUTSIDE.items()}
    return inside if inside.exists() else ROOT / outside.get(name, name)


def render(name: str, text: str) -> Document:
    """Return a page's Markdown as HTML. `name`: of the page, from which its links start."""
    markdown = MarkdownIt("commonmark", {"highlight": colored}).enable("table")
    markdown.add_render_rule("table_open", lambda *_: '<div class="table"><table>\n')
    markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")
    tokens = markdown.parse(text)
    headings = list(_anchored(name, tokens))
    _linked(name, tokens)
    html = markdown.renderer.render(tokens, markdown.options, {})
    title = next((heading.title for level, heading in headings if level == "h1"), name)
    sections = tuple(heading for level, heading in headings if level == "h2")
    return Document(title, html, sections, tuple(passages(tokens)))


def _anchored(name: str, tokens: Sequence[Token]) -> Iterator[tuple[str, Heading]]:
    """Give headings their anchors, and yield each with its level. Give each code in a heading, and in the first cell of
    a row, an anchor of its name."""
    taken: set[str] = set()
    section, first_cell = "", False
    codes: list[tuple[str, Token]] = []
    for token, content in pairwise(tokens):
        first_cell = token.type == "tr_open" or (first_cell and token.type == "td_open")
        children = content.children or []
        if token.type == "heading_open":
            title = plain(content)
            anchor = _unique(slug(title), taken)
            token.attrSet("id", anchor)
            section = anchor if token.tag == "h2" else section
            yield token.tag, Heading(anchor, title)
        if token.type == "heading_open" or (token.type == "td_open" and first_cell):
            codes += [(section, child) for child in children if child.type == "code_inline"]
            first_cell = False
    for section, code in codes:
        anchor = f"{section}-{code.content}" if name in OWN_BY_SECTION else code.content
        if anchor not in taken and not re.search(r"\s", anchor):
            taken.add(anchor)
            code.attrSet("id", anchor)


def slug(title: str) -> str:
    """Return the anchor of a heading, as the site's generator makes it."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def _unique(anchor: str, taken: set[str]) -> str:
    found, number = anchor, 0
    while found in taken or not found:
        number += 1
        found = f"{anchor}_{number}"
    taken.add(found)
    return found


def _linked(name: str, tokens: Sequence[Token]) -> None:
    """Point links at pages to their addresses. Links to other files lose their address, because they lead nowhere."""
    for token in tokens:
        opened: list[Token] = []
        for child in token.children or []:
            if child.type == "link_open":
                opened.append(child)
                target = _target(name, str(child.attrGet("href")))
                child.attrs = {"href": target} if target else {}
                child.tag = "a" if target else "span"
            elif child.type == "link_close":
                child.tag = opened.pop().tag


def _target(name: str, link: str) -> str | None:
    """Return the address that a link on a page leads to; None if it is no page."""
    path, hash_, anchor = link.partition("#")
    if not path or _EXTERNAL.match(path):
        return link
    linked = posixpath.normpath(posixpath.join("docs", posixpath.dirname(name), path))
    inside = linked.removeprefix("docs/") if linked.startswith("docs/") else OUTSIDE.get(linked, "")
    page = inside.removesuffix(".md")
    return address(page) + hash_ + anchor if inside.endswith(".md") and page in titles() else None
