"""The documentation as the API serves it, at /docs."""

import asyncio
import re
import threading
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from html import unescape
from pathlib import Path

import anyio
import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.dashboard import documentation
from api.dashboard.code_colors import colored
from api.dashboard.document_search import MAX_RESULTS, Passage, search
from api.main import create_app
from api.settings import Settings
from api.spec.catalog import METHODS

CURVES = Path(documentation.__file__).parent / "assets" / "training-curves.js"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Somebody without a key."""
    app = create_app(Settings(data_dir=tmp_path_factory.mktemp("docs")))
    yield TestClient(app, raise_server_exceptions=False)
    app.state.context.database.dispose()


@pytest.fixture(scope="module")
def pages(reader: TestClient) -> dict[str, str]:
    """The HTML of every page by its address."""
    texts = {}
    for name in documentation.titles():
        answer = reader.get(documentation.address(name))
        assert answer.status_code == 200
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        texts[documentation.address(name)] = answer.text
    return texts


def anchors(html: str) -> set[str]:
    return {unescape(anchor) for anchor in re.findall(r' id="([^"]*)"', html)}


def test_every_link_leads_to_a_page_and_an_anchor(pages: dict[str, str]) -> None:
    for address, html in pages.items():
        article = html.partition("<article>")[2].partition("</nav>")[0]
        assert "<h1" in article, address
        for link in map(unescape, re.findall(r'href="([^"]*)"', article)):
            if not re.match("[a-z]+:", link):
                page, _, anchor = link.partition("#")
                assert not anchor or anchor in anchors(pages[page or address]), f"{address}: {link}"


def test_the_curves_of_every_method_lead_to_their_section(pages: dict[str, str]) -> None:
    table = CURVES.read_text().partition("const EXPLAINED = {")[2].partition("};")[0]
    sections = dict(re.findall(r'(\w+): "([\w-]+)"', table))
    assert set(sections) == set(METHODS)
    explained = anchors(pages["/docs/metrics"])
    assert {f"{section}-loss" for section in sections.values() if section != "ppo-and-reinforcement"} <= explained
    assert {"ppo-and-reinforcement-reward", "every-method-learning_rate", "dpo-rewards_margin"} <= explained


def test_no_script_is_inline(pages: dict[str, str]) -> None:
    scripts = re.findall(r"<script([^>]*)>", "".join(pages.values()))
    assert all(" src=" in script for script in scripts)
    assert not re.search(r' (style|on\w+)="', "".join(pages.values()))


def test_the_overview_has_a_slash_or_none(reader: TestClient) -> None:
    assert reader.get("/docs/").text == reader.get("/docs").text


def test_an_unknown_page_says_so(reader: TestClient) -> None:
    answer = reader.get("/docs/..%2f..%2fpyproject")
    assert answer.status_code == 404
    assert "has no page <code>../../pyproject</code>" in answer.text


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("Out of memory", "troubleshooting#out_of_memory"),
        ("too_many_evals", "troubleshooting#too_many_evals"),
        ("gguf", "results#gguf"),
        ("session ended", "troubleshooting#session_ended"),
    ],
)
def test_a_search_leads_to_the_passage(reader: TestClient, pages: dict[str, str], query: str, first: str) -> None:
    found = re.findall(r'<li><a href="/docs/([^"]+)"', results(reader.get("/docs", params={"q": query}).text))
    assert found[0] == first
    assert len(set(found)) == len(found) <= MAX_RESULTS


def test_a_search_without_a_result_says_so(reader: TestClient, pages: dict[str, str]) -> None:
    found = results(reader.get("/docs", params={"q": "<b>nowhere"}).text)
    assert "No passages have the words of <strong>&lt;b&gt;nowhere</strong>." in found


def test_a_result_shows_whole_words_around_the_phrase() -> None:
    block = Passage("a", "Memory", "out word " * 60 + "runs out of memory here " + "after " * 60)
    (result,) = search({"page": [block]}, "OUT of memory")
    assert re.fullmatch(r"… (out |word )+runs out of memory here (after )+…", result.text)


def test_searches_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documentation, "SEARCHES_PER_S", 0.001)
    monkeypatch.setattr(documentation, "titles", lambda: {"index": "Overview"})
    app = create_app(Settings(data_dir=tmp_path))
    reader = TestClient(app, raise_server_exceptions=False)
    assert reader.get("/docs?q=guide").status_code == 200
    refused = reader.get("/docs?q=guide")
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0
    assert f"retry in {refused.headers['retry-after']} s" in results(refused.text)
    assert reader.get("/docs").status_code == 200
    app.state.context.database.dispose()


def threads_in_use() -> int:
    """Return how many of the threads that requests share are in use. Call it on the event loop."""
    return anyio.to_thread.current_default_thread_limiter().borrowed_tokens


def test_the_first_readers_render_a_page_once_and_take_no_thread_of_the_api(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = threading.Barrier(2)
    of_the_api: list[int] = []

    def render(name: str, text: str) -> documentation.Document:
        of_the_api.append(anyio.from_thread.run_sync(threads_in_use))
        with suppress(threading.BrokenBarrierError):
            met.wait(0.2)  # time for a second reader to begin as well
        return documentation.Document(name, "", (), ())

    async def read_at_once(app: FastAPI) -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as reader:
            return await asyncio.gather(*(reader.get("/docs") for _ in range(4)))

    monkeypatch.setattr(documentation, "render", render)
    app = create_app(Settings(data_dir=tmp_path))
    answers = asyncio.run(read_at_once(app))
    app.state.context.database.dispose()
    assert [answer.status_code for answer in answers] == [200] * 4
    assert of_the_api == [0]
    assert {answer.headers["content-encoding"] for answer in answers} == {"gzip"}


def results(html: str) -> str:
    return html.partition("<article>")[2].partition("</article>")[0]


def test_anchors_of_headings_are_those_of_the_site() -> None:
    """Python-Markdown's, which the site's generator uses."""
    headings = ["# `a_b`, `c`", "## From a - to **b**: é?", "## Twice", "## Twice"]
    text = "\n\n".join([*headings, "| `x_y` | `z` |\n|---|---|\n| `k`, `l` | `m` |"])
    html = documentation.render("page", text).html
    assert re.findall(r'<h\d id="([^"]*)"', html) == ["a_b-c", "from-a-to-b-e", "twice", "twice_1"]
    assert anchors(html) >= {"a_b", "c", "k", "l"}
    assert not anchors(html) & {"m", "x_y"}


def test_links_to_files_that_are_not_installed_are_text() -> None:
    html = documentation.render("internals/x", "[a](../jobs.md#b) [c](../../api/main.py) [d](https://e.example)").html
    assert 'href="/docs/jobs#b"' in html
    assert "<span>c</span>" in html
    assert 'href="https://e.example"' in html


def test_the_wheel_has_the_pages() -> None:
    build = tomllib.loads((documentation.ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert "docs" in build["wheel"]["packages"]
    outside = {target: source for source, target in documentation.OUTSIDE.items()} | {
        documentation.NAVIGATION: documentation.NAVIGATION
    }
    assert build["wheel"]["force-include"] == {source: f"docs/{target}" for target, source in outside.items()}


def test_code_is_colored_and_stays_as_it_is() -> None:
    code = '\n# why\nif a < b:\n    name = f"a<b"\n'
    html = colored(code, "python")
    assert '<span class="comment"># why</span>' in html
    assert html.count("<span ") == 3
    assert unescape(re.sub("<[^>]*>", "", html)) == code
    assert colored(code, "no-language") == ""
