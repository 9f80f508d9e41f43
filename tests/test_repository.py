"""The files that people expect of a repository, and that they agree with each other."""

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from api.main import create_app
from api.settings import Settings
from tests import quick

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_stated_once(tmp_path: Path) -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    assert set(re.findall(r"image: attune-[\w-]+:(\S+)", compose)) == {PROJECT["version"]}
    assert metadata.version("attune") == PROJECT["version"], "run `make install`"
    assert create_app(Settings(data_dir=tmp_path)).version == PROJECT["version"]
    code = [path for folder in ("api", "worker") for path in (ROOT / folder).rglob("*.py")]
    assert [path for path in code if f'"{PROJECT["version"]}"' in path.read_text()] == []


def test_the_changelog_has_a_section_for_what_is_unreleased_and_for_the_current_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert changelog.count("\n## [Unreleased]\n") == 1
    assert PROJECT["version"] in changelog
    kinds = re.findall(r"^### (.+)$", changelog, re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_license_is_apache_2() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["license-files"] == ["LICENSE"]
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_wheel_cannot_be_published() -> None:
    """PyPI refuses the classifier. The wheel's top-level packages would hide other people's modules."""
    assert "Private :: Do Not Upload" in PROJECT["classifiers"]


def test_pre_commit_runs_the_checks_of_lint_from_the_environment_alone() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [each["repo"] for each in repositories] == ["local"]
    hooks = repositories[0]["hooks"]
    assert all(hook["language"] == "system" for hook in hooks)
    commands = [" ".join(hook["entry"].split()[:2]) for hook in hooks]
    assert commands == [".venv/bin/ruff format", ".venv/bin/ruff check", ".venv/bin/mypy"]
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    assert all(command.replace(".venv/bin", "$(BIN)") in lint for command in commands)


def test_make_quick_leaves_out_every_file_that_loads_torch_or_starts_processes() -> None:
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    left_out = {*quick.heavy_files()}
    assert {
        path for path in files if re.search(r"^import (torch|subprocess)$", path.read_text(), re.MULTILINE)
    } <= left_out
    assert Path(__file__) not in left_out
    assert len(left_out) < 2 * len(files) / 3
