"""Nothing that a stranger has named may steer the terminal."""

import os
import pty
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.cli.console import clean, format_size
from tests.api.cli.conftest import MODEL, FakeServer
from tests.api.cli.terminal import run_on_terminal
from tests.api.cli.test_estimate import ESTIMATE, SEQUENCE
from tests.source import ROOT


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


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}])
def test_colors_can_be_switched_off(tmp_path: Path, variables: dict[str, str]) -> None:
    reader, writer = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "xterm", **variables}
    command = [sys.executable, "-m", "api.cli", "files", "check", "absent"]
    subprocess.run(command, cwd=tmp_path, env=environment, stdout=writer, stderr=writer, check=False)
    shown = os.read(reader, 4096).decode()
    os.close(writer)
    os.close(reader)
    assert "absent is not a file" in shown
    assert ("\x1b[1;31m" in shown) == (not variables)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["jobs", "log", "ftjob-1"], "=== training from 2026"),
        (["chat", MODEL, "hello"], "two lines"),
        (["estimate", "file-1", "-m", "tiny"], "9 of 4 rows, 3 epochs"),
        (["preview", "file-1", "-m", "tiny"], "ab[[c]]|CUT|d"),
    ],
)
def test_a_terminal_shows_texts(server: FakeServer, words: list[str], text: str) -> None:
    server.said = ["two li", "nes"]
    server.answers["/v1/fine_tuning/estimates"] = ESTIMATE
    row = {"row": 1, "label": None, "dropped": False, "sequences": [SEQUENCE], "findings": []}
    server.answers["/v1/fine_tuning/previews"] = {"rows": [row]}
    code, shown = run_on_terminal(*words)
    assert (code, text in shown) == (0, True), shown
