"""AdapterHub's library `adapters` as the judge of our files. It needs another transformers, so it runs by itself."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests import environments

VERSION = "1.3.0"
PROGRAM = Path(__file__).with_name("adapterhub_program.py")


@dataclass(frozen=True)
class Case:
    base: str
    adapter: str
    auto_class: str
    """Of transformers, such as AutoModelForCausalLM."""
    options: Mapping[str, object]
    """More arguments of its `from_pretrained`."""


def logits(cases: Mapping[str, Case], tokens_B_T: list[list[int]], scratch: Path) -> dict[str, torch.Tensor]:
    """What plain `adapters` computes from our files, for each case."""
    folder = environments.CACHE / "adapterhub" / VERSION
    python = environments.python_with(f"adapters=={VERSION}", folder=folder, our_packages_behind=True)
    asked = {"tokens": tokens_B_T, "cases": {name: asdict(case) for name, case in cases.items()}}
    (scratch / "cases.json").write_text(json.dumps(asked))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [python, PROGRAM, scratch / "cases.json", scratch / "logits.safetensors"],
        check=True,
        cwd=scratch,
        env=env | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    return load_file(scratch / "logits.safetensors")
