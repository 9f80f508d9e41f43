"""docs/troubleshooting.md has an entry for every code, and no entry for a code that does not exist."""

import re
from pathlib import Path

from api.dashboard import documentation
from tests.docs.error_codes import codes

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"


def documented() -> set[str]:
    """Return the codes in headings and in the first cells of tables."""
    places = re.findall(r"^### (`.*)$|^\| (`[^|]*) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {code for place in places for code in re.findall(r"`(\w+)`", "".join(place))}


def test_every_code_has_an_entry() -> None:
    assert codes() - documented() == set()


def test_every_entry_has_a_code() -> None:
    assert documented() - codes() == set()


def test_the_dashboard_links_each_code_to_its_entry() -> None:
    html = documentation.render("troubleshooting", PAGE.read_text(encoding="utf-8")).html
    assert codes() <= set(re.findall(r' id="(\w+)"', html))
