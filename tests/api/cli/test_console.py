"""Nothing that a stranger has named may steer the terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.cli.console import clean, format_size


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain — ünïcode 漢字", "plain — ünïcode 漢字"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("over\rwritten\nline", "over written line"),
        ("gpj.\u202eexe", "gpj. exe"),
        ("[bold]markup is text[/bold]", "[bold]markup is text[/bold]"),
    ],
)
def test_escape_sequences_go_and_control_characters_become_spaces(text: str, shown: str) -> None:
    assert clean(text) == shown


@given(st.text())
def test_no_text_keeps_a_control_character(text: str) -> None:
    assert not [char for char in clean(text) if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]


@pytest.mark.parametrize(("count", "shown"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 KB"), (2.5e9, "2.5 GB")])
def test_sizes_are_short(count: float, shown: str) -> None:
    assert format_size(count) == shown
