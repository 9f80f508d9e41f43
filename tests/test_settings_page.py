"""docs/settings.md, which is generated from the settings class."""

from api.settings import Settings
from docs.settings import PAGE, SECTIONS, page


def test_the_page_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_every_section_begins_with_a_setting() -> None:
    assert SECTIONS.keys() <= Settings.model_fields.keys()
    assert next(iter(Settings.model_fields)) in SECTIONS
