"""The GPUs of this machine, and the slices of partitioned ones (MIG), as nvidia-smi lists them."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from itertools import takewhile

BFLOAT16_CAPABILITY = (8, 0)
"""Compute capability of Ampere, the first GPUs that multiply in bfloat16 and run FlashAttention."""
QUERY = "index,uuid,memory.total,memory.free,compute_cap,name,mig.mode.current"
NAMES = re.compile(r"\d+|(GPU|MIG)-.+")
"""Names of GPUs in CUDA_VISIBLE_DEVICES. CUDA ignores any other, such as -1, and all names after it."""
WSL = "/usr/lib/wsl/lib"
"""Folder of nvidia-smi in the Windows Subsystem for Linux. Services do not have it in their PATH."""
LISTED_GPU = re.compile(r"^GPU (\d+):")
LISTED_SLICE = re.compile(r"^ +MIG \S*\d+g\.(\d+)gb\S* .*\(UUID: *(MIG-[^)]+)\)")


@dataclass(frozen=True)
class Gpu:
    index: str
    """The name by which a worker gives the GPU to a child. A slice's is its UUID."""
    uuid: str
    total_bytes: int | None
    free_bytes: int | None
    """Free memory now; None for a slice. This and `total_bytes` are None if the GPU shares the machine's memory."""
    capability: tuple[int, int]
    model: str | None = None
    """Name of the model, such as NVIDIA H200."""
    partitioned: bool = False
    """Whether jobs can only use its slices."""

    @property
    def bfloat16(self) -> bool:
        return self.capability >= BFLOAT16_CAPABILITY


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use: those in CUDA_VISIBLE_DEVICES, or all if it is not set."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [*takewhile(NAMES.fullmatch, (name.strip() for name in named.split(",")))]
    return [gpu.index for gpu in list_gpus()]


def find_gpu(name: str) -> Gpu | None:
    """Return the GPU with this name, if there is one. Names are those of CUDA_VISIBLE_DEVICES: an index in bus order, a
    UUID, or a prefix of a UUID. The index of a partitioned GPU finds none, because it stands for one of its slices."""
    by_uuid = name.startswith(("GPU-", "MIG-"))
    return next((gpu for gpu in list_gpus() if (gpu.uuid.startswith(name) if by_uuid else gpu.index == name)), None)


def list_gpus() -> list[Gpu]:
    """Return the GPUs of this machine, with slices in place of partitioned ones; none if there is no driver, or the
    driver does not answer."""
    gpus = parse_gpus(_ask_driver(f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"))
    if any(gpu.partitioned for gpu in gpus):
        gpus = with_slices(gpus, _ask_driver("--list-gpus"))
    return gpus


def _ask_driver(*options: str) -> str:
    program = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path=WSL)
    if program is None:
        return ""
    try:
        return subprocess.run([program, *options], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def parse_gpus(output: str) -> list[Gpu]:
    """Parse nvidia-smi's answer to QUERY. It writes [N/A] for numbers that the driver does not know."""
    gpus = []
    for line in output.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == len(QUERY.split(",")):
            index, uuid, total, free, capability, model, partitioning = fields
            major, _, minor = capability.partition(".")
            numbers = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)
            memory = _mebibytes(total), _mebibytes(free)
            gpus.append(Gpu(index, uuid, *memory, numbers, model[:128], partitioned=partitioning == "Enabled"))
    return gpus


def with_slices(gpus: list[Gpu], listed: str) -> list[Gpu]:
    """Return the GPUs with the slices of partitioned ones in their place.

    `listed`: nvidia-smi's list, in which the name of a slice's profile, such as 1g.10gb, gives its memory.
    """
    slices: dict[str, list[Gpu]] = {gpu.index: [] for gpu in gpus}
    whole = {gpu.index: gpu for gpu in gpus}
    index = ""
    for line in listed.splitlines():
        if found := LISTED_GPU.match(line):
            index = found[1]
        elif (found := LISTED_SLICE.match(line)) and index in whole:
            size = int(found[1]) * 10**9
            part = replace(
                whole[index], index=found[2], uuid=found[2], total_bytes=size, free_bytes=None, partitioned=False
            )
            slices[index].append(part)
    return [each for gpu in gpus for each in (slices[gpu.index] if gpu.partitioned else [gpu])]


def _mebibytes(text: str) -> int | None:
    return int(text) * 2**20 if text.isdigit() else None
