"""`attune --help`: what it imports, and that every help page is true and has an example."""

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from api.cli.main import COMMANDS, app
from api.spec.catalog import METHODS, TECHNIQUES
from tests.source import ROOT

SERVER_LIBRARIES = {"sqlalchemy", "alembic", "redis", "celery", "kombu", "fastapi", "uvicorn", "obstore", "numpy"}


def imported(*arguments: str) -> set[str]:
    """Return the modules that the command imports."""
    program = [sys.executable, "-X", "importtime", "-m", "api.cli", *arguments]
    report = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False).stderr
    return {line.rpartition("|")[2].strip() for line in report.splitlines() if line.startswith("import time:")}


def load(name: str) -> Any:
    module, _, attribute = COMMANDS[name][0].partition(":")
    return typer.main.get_command(getattr(__import__(module, fromlist=[attribute]), attribute))


def help_pages() -> Iterator[tuple[str, Any]]:
    """Yield every command below `attune`, with the words that call it."""
    for name in COMMANDS:
        command = load(name)
        yield f"attune {name}", command
        for child, subcommand in getattr(command, "commands", {}).items():
            yield f"attune {name} {child}", subcommand


def test_the_list_of_commands_imports_none_of_them() -> None:
    modules = imported("--help")
    assert {name for name in modules if name.startswith("api.cli.")} == {"api.cli.main"}
    assert not {name.partition(".")[0] for name in modules} & {*SERVER_LIBRARIES, "pydantic", "httpx"}


@pytest.mark.parametrize("arguments", [["jobs", "--help"], ["jobs", "list"], ["files", "--help"], ["chat", "--help"]])
def test_client_commands_import_nothing_of_the_server(arguments: list[str]) -> None:
    modules = imported(*arguments)
    assert "api.cli.client" in modules
    assert not {name.partition(".")[0] for name in modules} & SERVER_LIBRARIES
    assert not {name for name in modules if name.startswith("api.") and not name.startswith("api.cli")}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_shows_the_first_sentence_of_each_commands_help(name: str) -> None:
    assert load(name).help.startswith(COMMANDS[name][1])


@pytest.mark.parametrize(("words", "command"), list(help_pages()))
def test_every_help_page_has_an_example(words: str, command: Any) -> None:
    assert command.help
    assert (command.epilog or "").startswith(f"Example: {words} ") or command.epilog == f"Example: {words}"


@pytest.mark.parametrize(("words", "command"), list(help_pages()))
def test_every_option_is_described(words: str, command: Any) -> None:
    self_explaining = {"job_id", "file_id", "pipeline_id"}
    for option in command.params:
        assert option.help or option.name in self_explaining, f"{words}: {option.name}"
        assert "[" not in (option.help or ""), f"{words}: {option.name}: brackets are markup and are not printed"


def words_of_help(*command: str) -> set[str]:
    page = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "400"}).stdout
    return set(re.findall(r"\w+", page))


def test_the_help_lists_every_technique_and_method() -> None:
    assert set(TECHNIQUES) <= words_of_help("jobs", "create")
    assert {*TECHNIQUES, *METHODS} <= words_of_help("estimate")
    assert set(METHODS) <= words_of_help("preview")


def test_a_misspelled_command_gets_a_suggestion() -> None:
    result = CliRunner().invoke(app, ["job"])
    assert result.exit_code == 2
    assert "Did you mean 'jobs'?" in result.stderr
