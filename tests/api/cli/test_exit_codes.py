"""The exit codes are a promise to scripts: the docs list each of them, and no other."""

import re
from pathlib import Path

import api
from api.cli.errors import ExitCode


def test_the_docs_list_every_exit_code() -> None:
    page = (Path(api.__file__).parents[1] / "docs" / "command-line.md").read_text()
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == list(ExitCode)
