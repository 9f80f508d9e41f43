"""The exit codes are a promise to scripts: the README lists each of them, and no other."""

import re
from pathlib import Path

import api
from api.cli.errors import ExitCode


def test_the_readme_lists_every_exit_code() -> None:
    readme = (Path(api.__file__).parents[1] / "README.md").read_text()
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", readme, re.MULTILINE)] == list(ExitCode)
