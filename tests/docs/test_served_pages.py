"""The documentation as the API serves it, at /docs."""

import re
import tomllib
from html import unescape
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.dashboard import documentation
from api.main import create_app
from api.settings import Settings
from api.spec.catalog import METHODS

CURVES = Path(documentation.__file__).parent / "assets" / "training-curves.js"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The HTML of every page by its address, to readers without a key."""
    app = create_app(Settings(data_dir=tmp_path_factory.mktemp("docs")))
    browser = TestClient(app)
    texts = {}
    for name in documentation.names():
        answer = browser.get(documentation.address(name))
        assert answer.status_code == 200
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        texts[documentation.address(name)] = answer.text
    app.state.context.database.dispose()
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


def test_an_unknown_page_says_so(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path))
    answer = TestClient(app).get("/docs/..%2f..%2fpyproject")
    assert answer.status_code == 404
    assert "has no page <code>../../pyproject</code>" in answer.text
    app.state.context.database.dispose()


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
