"""A technique, a method, a format and a grader are a file each, and a name in their catalogue (docs/extending.md)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source import ROOT

ENTRIES = ROOT / "tests" / "extension" / "entries"
COPIED = ("api", "worker", "migrations", "tests", "pyproject.toml")


def add(project: Path, entry: str, to: str, imported: str, catalogue: str, *, before: str, name: str) -> None:
    """Copy an entry into the project, import it in its catalogue, and put its name into the list there."""
    shutil.copy(ENTRIES / f"{entry}.py", project / to)
    path = project / catalogue
    text = path.read_text()
    assert text.count(before) == 1, f"{catalogue}: {before}"
    last = text.rindex("\nfrom ", 0, text.index(before))
    path.write_text(f"{text[:last]}\n{imported}{text[last:]}".replace(before, name + before))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project with one more entry in each of the catalogues."""
    for part in COPIED:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    add(
        tmp_path,
        "loha",
        "api/spec/techniques/loha.py",
        "from api.spec.techniques.loha import Loha",
        "api/spec/techniques/__init__.py",
        before="Lora | Dora",
        name="Loha | ",
    )
    add(
        tmp_path,
        "brier",
        "api/spec/methods/brier.py",
        "from api.spec.methods.brier import Brier",
        "api/spec/methods/__init__.py",
        before="Supervised | Classification",
        name="Brier | ",
    )
    add(
        tmp_path,
        "brier_objective",
        "worker/methods/brier.py",
        "from worker.methods.brier import Brier",
        "worker/methods/__init__.py",
        before='"supervised": Supervised,',
        name='"brier": Brier,\n    ',
    )
    add(
        tmp_path,
        "riddle",
        "api/spec/formats/riddle.py",
        "from api.spec.formats.riddle import Riddle",
        "api/spec/formats/__init__.py",
        before="Preference(),",
        name="Riddle(),\n        ",
    )
    add(
        tmp_path,
        "brevity",
        "api/spec/graders/brevity.py",
        "from api.spec.graders.brevity import Brevity",
        "api/spec/graders/single.py",
        before="StringCheck | TextSimilarity",
        name="Brevity | ",
    )
    return tmp_path


@pytest.mark.timeout(900)
def test_new_entries_are_trained_estimated_listed_and_described(project: Path, tiny_base: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/extension/in_tree.py"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(project), "PYTEST_ADDOPTS": "", "TINY_BASE": str(tiny_base)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
