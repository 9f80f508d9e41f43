"""What depends on the machine: precision, micro-batch, recomputation. Torch-free, since the supervisor decides it."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from api.fields import AUTO
from api.recipe import ResolvedRecipe
from api.techniques import Full

MICRO_BATCH_TOKENS_CPU = 2048
MICRO_BATCH_TOKENS_GPU = 16384
ACTIVATIONS_PER_TOKEN = 34
"""Values that a layer keeps for the backward pass, per token and unit of hidden size. Korthikanti et al. 2022
(arXiv:2205.05198, table 2) count 34 bytes in half precision; gated MLPs and adapters bring it to twice that."""
FREE_SHARE = 0.7
"""Of the free memory, what the estimate may fill: it is rough, and allocators fragment."""


def resolve_hardware(recipe: ResolvedRecipe, facts: Mapping[str, Any], *, gpu: bool | None = None) -> ResolvedRecipe:
    """Replace what is still "auto". `facts` of the base: hidden_size, layers, vocab_size, parameters.

    `gpu`: whether the training will have one; None asks the machine.
    """
    on_gpu = gpu_count() > 0 if gpu is None else gpu
    precision = recipe.precision
    if precision == AUTO:
        precision = "bfloat16" if on_gpu or cpu_multiplies_bfloat16() else "float32"
    budget = MICRO_BATCH_TOKENS_GPU if on_gpu else MICRO_BATCH_TOKENS_CPU
    asked = recipe.micro_batch_tokens
    tokens = max(recipe.max_length, budget) if asked == "auto" else asked
    recompute = recipe.gradient_checkpointing
    if recompute == AUTO:
        free = gpu_free_bytes() if on_gpu else psutil.virtual_memory().available
        needed = training_bytes(recipe, facts, value_bytes=2 if precision == "bfloat16" else 4, tokens=tokens)
        recompute = needed > FREE_SHARE * free
    return recipe.model_copy(
        update={"precision": precision, "micro_batch_tokens": tokens, "gradient_checkpointing": recompute}
    )


def training_bytes(recipe: ResolvedRecipe, facts: Mapping[str, Any], *, value_bytes: int, tokens: int) -> int:
    """Weights, optimizer and the activations of one micro-batch of `tokens`, without recomputation."""
    parameters = facts["parameters"]
    # Full: float32 master, gradient and AdamW's two moments. Adapters: a few percent of that, which the share covers.
    trained = 16 * parameters if isinstance(recipe.technique, Full) else 0
    activations = ACTIVATIONS_PER_TOKEN * facts["hidden_size"] * facts["layers"] * tokens * value_bytes
    return int(parameters * value_bytes + trained + activations)


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


def gpu_free_bytes() -> int:
    """Of the GPU with the least free memory; 0 without one."""
    return min((int(mebibytes) * 2**20 for mebibytes in _nvidia_smi("memory.free")), default=0)


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
