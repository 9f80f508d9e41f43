"""The wheel: what `pip install .` installs is whole, and runs without the checkout."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import hatchling.build
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"api", "worker", "migrations", "examples", "docs"}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the content of the wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        wheel = hatchling.build.build_wheel(str(folder))
    with zipfile.ZipFile(folder / wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_the_wheel_has_every_file_of_its_packages_and_no_other_package(unpacked: Path) -> None:
    names = {path.name for path in unpacked.iterdir()}
    assert {name for name in names if not name.endswith(".dist-info")} == PACKAGES
    files = (path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    assert [path for path in files if "__pycache__" not in path.parts and not (unpacked / path).is_file()] == []


def test_an_installed_wheel_works_without_the_checkout(unpacked: Path, tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(unpacked), sysconfig.get_path("purelib")])}
    # -S skips the .pth file of the editable installation, and -P the folder of the program.
    command = [sys.executable, "-S", "-P", str(ROOT / "tests" / "installed.py"), str(unpacked)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
