"""The GPUs of this machine, as nvidia-smi lists them."""

import os
import shutil
import subprocess
from dataclasses import dataclass

BFLOAT16_CAPABILITY = (8, 0)
"""Compute capability of Ampere, the first GPUs that multiply in bfloat16 and run FlashAttention."""
QUERY = "index,uuid,memory.total,memory.free,compute_cap,name"


@dataclass(frozen=True)
class Gpu:
    index: str
    uuid: str
    total_bytes: int | None
    free_bytes: int | None
    """Free memory now. This and `total_bytes` are None if the GPU shares the machine's memory."""
    capability: tuple[int, int]
    model: str | None = None
    """Name of the model, such as NVIDIA H200."""

    @property
    def bfloat16(self) -> bool:
        return self.capability >= BFLOAT16_CAPABILITY


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use: those in CUDA_VISIBLE_DEVICES, or all if it is not set."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [gpu.index for gpu in list_gpus()]


def find_gpu(name: str) -> Gpu | None:
    """Return the GPU with this name, if there is one. Names are those of CUDA_VISIBLE_DEVICES: an index in bus order, a
    UUID, or a prefix of a UUID."""
    by_uuid = name.startswith("GPU-")
    return next((gpu for gpu in list_gpus() if (gpu.uuid.startswith(name) if by_uuid else gpu.index == name)), None)


def list_gpus() -> list[Gpu]:
    """Return the GPUs of this machine; none if there is no driver, or the driver does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(answer.stdout)


def parse_gpus(output: str) -> list[Gpu]:
    """Parse nvidia-smi's answer to QUERY. It writes [N/A] for numbers that the driver does not know."""
    gpus = []
    for line in output.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == len(QUERY.split(",")):
            index, uuid, total, free, capability, model = fields
            major, _, minor = capability.partition(".")
            numbers = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)
            gpus.append(Gpu(index, uuid, _mebibytes(total), _mebibytes(free), numbers, model[:128]))
    return gpus


def _mebibytes(text: str) -> int | None:
    return int(text) * 2**20 if text.isdigit() else None
