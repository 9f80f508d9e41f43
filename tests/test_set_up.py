"""A newcomer's two commands install what was tested, and nothing newer."""

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

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


@pytest.mark.parametrize("name", ["peft", "torch", "transformers"])
def test_a_library_whose_inner_parts_the_trainer_uses_stays_at_the_tested_version(name: str) -> None:
    """pip installs the newest version that is allowed, unless it is given constraints.txt."""
    tested = Version(_pins()[name])
    newer = f"{tested.major}.{tested.minor + 1}.0"
    assert not any(each.specifier.contains(newer) for each in _requirements() if each.name == name)


def test_pins_are_exact_and_name_no_build_of_one_index() -> None:
    for name, version in _pins().items():
        assert version, f"{name} is not pinned with =="
        assert "+" not in version, f"{name}=={version} exists on one index only"


def test_continuous_integration_runs_the_command_of_the_readme() -> None:
    assert "exec make test" in (ROOT / ".ci" / "run").read_text()


LISTS = sorted((ROOT / "requirements").glob("*.txt"))
INSTALLED = [path for path in LISTS if path.name not in {"build.txt", "objects.txt"}]
"""What one environment with everything holds; the other two are for environments of their own."""


def _locked(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Version and hashes of each package of a list, by its name."""
    entries = re.split(r"^(?=\w)", path.read_text().replace("\\\n", " "), flags=re.MULTILINE)[1:]
    found = [
        (re.match(r"([\w.-]+)==(\S+)", entry), re.findall(r"--hash=sha256:(\w{64})\b", entry)) for entry in entries
    ]
    return {canonicalize_name(match[1]): (match[2], hashes) for match, hashes in found if match is not None}


def test_every_pin_has_hashes_and_the_same_version() -> None:
    locked = dict(chain.from_iterable(_locked(path).items() for path in INSTALLED))
    for name, version in _pins().items():
        assert name in locked, f"{name} is not in requirements/: run `make lock`"
        assert locked[name][0] == version, f"requirements/ has {name}=={locked[name][0]}: run `make lock`"


def test_every_line_of_a_list_has_hashes_and_no_other_version_than_the_pins() -> None:
    pins = _pins()
    for path in LISTS:
        locked = _locked(path)
        assert len(locked) == len(re.findall(r"^\w", path.read_text(), re.MULTILINE)), path.name
        for name, (version, hashes) in locked.items():
            assert hashes, f"{path.name}: {name} has no hash"
            assert pins.get(name, version) == version, f"{path.name}: {name}=={version}"


def test_images_install_only_files_whose_hashes_are_listed() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r'^ENV LOCKED="--require-hashes ', dockerfile, re.MULTILINE)
    installs = re.findall(r"pip install (.+?)(?: && |;|$)", dockerfile, re.MULTILINE)
    others = [each for each in installs if "$LOCKED" not in each and "--no-index" not in each]
    assert others == ["$PIP_ARGS -c constraints.txt torch"]
    assert set(re.findall(r"(\w+\.txt)\b", " ".join(installs))) >= {path.name for path in LISTS} - {"dev.txt"}
