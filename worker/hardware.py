"""What there is of this machine, and what it decides of a recipe. Torch-free, since the supervisor decides it."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import psutil  # type: ignore[import-untyped]

from api.estimate.machine import settle
from api.fields import AUTO
from api.recipe import ResolvedRecipe


def resolve_hardware(recipe: ResolvedRecipe, facts: Mapping[str, Any], *, gpu: bool | None = None) -> ResolvedRecipe:
    """Replace what is still "auto". `facts` of the base: hidden_size, layers, vocab_size, parameters, shapes if known.

    `gpu`: whether the training will have one; None asks the machine.
    """
    on_gpu = gpu_count() > 0 if gpu is None else gpu
    free = None
    if recipe.gradient_checkpointing == AUTO:
        free = gpu_memory_bytes("free") if on_gpu else psutil.virtual_memory().available
    return settle(recipe, facts, gpu=on_gpu, bfloat16=cpu_multiplies_bfloat16(), free_bytes=free)


@lru_cache
def cpu_multiplies_bfloat16() -> bool:
    """Without instructions for it bfloat16 is emulated, several times slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def visible_gpus() -> list[str]:
    """The GPUs that this process may use: those the operator named in CUDA_VISIBLE_DEVICES, or all there are."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [each.strip() for each in named.split(",") if each.strip()]
    return [str(index) for index in range(len(_nvidia_smi("name")))]


def gpu_count() -> int:
    return len(visible_gpus())


def gpu_memory_bytes(which: Literal["free", "total"]) -> int:
    """Of the GPU that has least of it; 0 without one."""
    return min((int(mebibytes) * 2**20 for mebibytes in _nvidia_smi(f"memory.{which}")), default=0)


def memory_bytes() -> int:
    """Of the machine, or what a container may use of it."""
    total = int(psutil.virtual_memory().total)
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return total


def _nvidia_smi(field: str) -> list[str]:
    """One line for each GPU; none where there is no driver, or it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        answer = subprocess.run(
            [program, f"--query-gpu={field}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]
