"""Links between the pages, as GitHub shows them, and the site's navigation."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.dashboard.documentation import OUTSIDE
from docs.site import DOCS, ROOT, build

MARKDOWN = [*DOCS.rglob("*.md"), *ROOT.glob("*.md")]
LINK = re.compile(r"\]\((?![a-z]+:)([^)\s]*)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of the page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages from which the site is built."""
    folder = tmp_path_factory.mktemp("site") / "pages"
    build(folder)
    return folder


def test_the_navigation_lists_every_page_of_the_site_once(site: Path) -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    listed = list(pages_of(nav))
    assert len(set(listed)) == len(listed)
    assert set(listed) == {str(path.relative_to(site)) for path in site.rglob("*.md")}
    assert set(OUTSIDE.values()) < set(listed)


def pages_of(nav: Any) -> Iterator[str]:
    """Yield the pages that an entry of the navigation names."""
    match nav:
        case str():
            yield nav
        case list():
            for entry in nav:
                yield from pages_of(entry)
        case dict():
            yield from pages_of(list(nav.values()))


def test_links_of_the_site_stay_on_the_site(site: Path) -> None:
    for page in site.rglob("*.md"):
        for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
            target = (page.parent / link.partition("#")[0]).resolve()
            assert target.is_relative_to(site), f"{page.name}: {link}"
            assert target.exists(), f"{page.name}: {link}"
