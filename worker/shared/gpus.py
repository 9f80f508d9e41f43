"""The GPUs of this machine, as the driver lists them. Torch-free, since the supervisor asks."""

import os
import shutil
import subprocess
from dataclasses import dataclass

BFLOAT16_CAPABILITY = (8, 0)
"""The first (Ampere) that multiplies in bfloat16, and that FlashAttention runs on."""
QUERY = "index,uuid,memory.total,memory.free,compute_cap"


@dataclass(frozen=True)
class Gpu:
    index: str
    uuid: str
    total_bytes: int | None
    free_bytes: int | None
    """None where it shares the machine's memory."""
    capability: tuple[int, int]

    @property
    def bfloat16(self) -> bool:
        return self.capability >= BFLOAT16_CAPABILITY


def visible_gpus() -> list[str]:
    """The GPUs that this process may use: those the operator named in CUDA_VISIBLE_DEVICES, or all there are."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [each.strip() for each in named.split(",") if each.strip()]
    return [gpu.index for gpu in listed()]


def gpu_of(name: str) -> Gpu | None:
    """By its index in the order of the bus, or its UUID or the beginning of that, as CUDA_VISIBLE_DEVICES names it."""
    by_uuid = name.startswith("GPU-")
    return next((gpu for gpu in listed() if (gpu.uuid.startswith(name) if by_uuid else gpu.index == name)), None)


def listed() -> list[Gpu]:
    """None where there is no driver, or it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return parsed(answer.stdout)


def parsed(answer: str) -> list[Gpu]:
    """nvidia-smi's answer to QUERY. A driver that does not know a number writes [N/A]: that GPU has none of it."""
    found = []
    for line in answer.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == len(QUERY.split(",")):
            index, uuid, total, free, capability = fields
            major, _, minor = capability.partition(".")
            numbers = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)
            found.append(Gpu(index, uuid, _mebibytes(total), _mebibytes(free), numbers))
    return found


def _mebibytes(text: str) -> int | None:
    return int(text) * 2**20 if text.isdigit() else None
