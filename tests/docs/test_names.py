"""The commands and the settings that the pages name exist."""

import re
from pathlib import Path

import pytest

from api.settings import Settings
from tests.docs.blocks import PAGES, inline_code
from tests.docs.command_lines import exists

OTHER_VARIABLES = {"ATTUNE_CONFIG", "ATTUNE_API_KEY", "ATTUNE_BASE_URL", "ATTUNE_SOAK_MINUTES"}
OTHER_VARIABLES |= {"ATTUNE_FAST_LAYERS", "ATTUNE_FRESH_PROOF", "ATTUNE_REPORT_FD", "ATTUNE_SHARED_PROMPTS"}
"""Variables of commands, tests and child processes, which are not settings of the service."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_in_the_sentences_of_a_page_exist(page: Path) -> None:
    for command in inline_code(page):
        if command.startswith("attune ") and not re.search(r"[|…]", command):
            assert exists(command), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_settings_of_a_page_exist(page: Path) -> None:
    settings = {f"ATTUNE_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"\bATTUNE_[A-Z_]+[A-Z]\b", page.read_text(encoding="utf-8")))
    assert named - settings - OTHER_VARIABLES == set()
