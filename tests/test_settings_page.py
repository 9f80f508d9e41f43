"""docs/settings.md, which is generated from the settings class."""

import re

from api.settings import Settings
from docs.settings import PAGE, SECTIONS, page


def test_the_page_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_every_section_begins_with_a_setting() -> None:
    assert SECTIONS.keys() <= Settings.model_fields.keys()
    assert next(iter(Settings.model_fields)) in SECTIONS


CLIENTS = {"ATTUNE_CONFIG", "ATTUNE_BASE_URL", "ATTUNE_API_KEY"}
COMPOSE = {"ATTUNE_PUBLISH"}


def test_the_page_on_operation_names_variables_that_exist_and_every_one_of_retention() -> None:
    named = set(re.findall(r"\bATTUNE_[A-Z_]+\b", PAGE.with_name("operating.md").read_text(encoding="utf-8")))
    settings = {f"ATTUNE_{name.upper()}" for name in Settings.model_fields}
    assert named <= settings | CLIENTS | COMPOSE
    assert {name for name in settings if name.startswith("ATTUNE_KEEP_")} <= named
