"""A newcomer's two commands install what was tested, and nothing newer."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def _requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    every = [Requirement(line) for line in sum(extras, project["dependencies"])]
    return [each for each in every if each.name != project["name"]]  # an extra that names others


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.partition("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in pins}


def test_every_dependency_is_pinned_to_a_version_that_it_allows() -> None:
    pins = _pins()
    for requirement in _requirements():
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"{requirement.name} is not in constraints.txt: run `make constraints`"
        assert requirement.specifier.contains(pinned), f"{requirement} does not allow the pinned {pinned}"


def test_pins_are_exact_and_name_no_build_of_one_index() -> None:
    for name, version in _pins().items():
        assert version, f"{name} is not pinned with =="
        assert "+" not in version, f"{name}=={version} exists on one index only"


def test_continuous_integration_runs_the_command_of_the_readme() -> None:
    assert "exec make test" in (ROOT / ".ci" / "run").read_text()
