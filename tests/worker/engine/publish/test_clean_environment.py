"""A published adapter of each LoRA family is loaded by plain peft, in an environment with nothing of ours."""

import json
import os
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.environments import CACHE, our_constraints, python_with
from tests.tiny_models import make_model
from tests.worker.recorder import train_here
from tests.worker.run_folders import make_run, random_rows

pytestmark = pytest.mark.pairs
LORA = {"type": "lora", "rank": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "lora": LORA,
    "rslora": LORA | {"rslora": True},
    "lora+": LORA | {"learning_rate_ratio": 16},
    "rank_pattern": LORA | {"rank_pattern": {"up_proj": 2}, "alpha_pattern": {"q_proj": 5}},
    "pissa": LORA | {"init": "pissa"},
    "olora": LORA | {"init": "olora"},
    "dora": LORA | {"type": "dora"},
    "qlora": LORA | {"type": "qlora"},
}
REWRITTEN = ("pissa", "olora")
"""Published for the base's own weights, which rounds each once more."""
PROGRAM = Path(__file__).parents[2] / "reload_program.py"


@pytest.fixture(scope="module")
def python() -> Path:
    peft = version("peft")
    return python_with(
        f"peft=={peft}",
        folder=CACHE / "plain-peft" / peft,
        constraints=our_constraints(),
        our_packages_behind=True,
        alone=True,
    )


def _in_clean_environment(python: Path, folder: Path, *arguments: object) -> str:
    """Isolated: neither PYTHONPATH nor the script's folder is looked at."""
    command = [str(python), "-I", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=_without_ours(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def _without_ours() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def test_nothing_of_ours_is_there(python: Path, tmp_path: Path) -> None:
    code = "import importlib.util as u; print([u.find_spec(name) for name in ('api', 'worker')], u.find_spec('peft'))"
    printed = _in_clean_environment(python, tmp_path, "-c", code)
    assert printed.startswith("[None, None]")
    assert str(CACHE) in printed


def test_every_lora_family_gives_the_trainers_log_probabilities(python: Path, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "llama_wide")
    for name, technique in FAMILIES.items():
        training = {"max_steps": 4, "learning_rate": 1e-2}
        run = make_run(tmp_path / name, base, train=random_rows(8, seed=4), technique=technique, training=training)
        assert train_here(run).of("done")
    printed = _in_clean_environment(python, tmp_path, PROGRAM, *(tmp_path / name for name in FAMILIES))
    differences = json.loads(printed.splitlines()[-1])
    allowed = {name: 1e-2 if name in REWRITTEN else 1e-4 for name in FAMILIES}
    assert {name: found for name, found in differences.items() if not found <= allowed[name]} == {}
    assert differences.keys() == FAMILIES.keys()
