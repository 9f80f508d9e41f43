"""The peers: an environment for each with its pinned versions, its program, and what it cannot do."""

import hashlib
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch

from benchmarks.training.workloads import Workload
from tests.environments import CACHE, our_constraints, python_with

FOUR_BITS = "bitsandbytes==0.50.2"


@dataclass(frozen=True)
class Peer:
    name: str
    environment: str
    program: str
    """The module in benchmarks.training.peers that trains."""
    requirements: tuple[str, ...]
    kinds: frozenset[str]
    """Kinds of workloads that the peer's program trains."""
    like_ours: bool = True
    """Whether all other packages of the environment have Attune's versions (constraints.txt). Otherwise pip chooses
    them."""
    best: bool = False
    """Whether the peer runs with the options that make it fastest, instead of its defaults."""
    without: tuple[str, ...] = ()
    """Packages that are removed after the installation."""
    lacks: Mapping[str, str] = field(default_factory=dict)
    """Why the program does not train kinds of workloads for which the peer has a trainer, by kind."""

    def why_not(self, workload: Workload) -> str | None:
        """Return why the peer cannot run the workload; None if it can."""
        if workload.kind in self.kinds:
            return None
        return self.lacks.get(workload.kind, f"has no trainer for {workload.kind}")

    def python(self) -> Path:
        """Return the interpreter of the peer's environment, which is installed when first needed. Raise NotInstalled if
        that fails."""
        python = _install(self.environment, self.requirements, self.like_ours)
        if self.without:
            subprocess.run(
                [python, "-m", "pip", "uninstall", "--quiet", "--yes", *self.without], check=True, capture_output=True
            )
        return python


class NotInstalled(Exception):
    """pip could not install a peer's environment."""


@cache
def _install(name: str, requirements: tuple[str, ...], like_ours: bool) -> Path:
    # Our own build of torch, +cpu or not, so that kernels are the same and no CUDA is downloaded for a CPU. A build for
    # CUDA has no version that pip could install again, and 3 GB: there, our packages are behind the peer's.
    on_gpu = torch.version.cuda is not None and like_ours
    exact = requirements if on_gpu else (*requirements, f"torch=={torch.__version__}")
    constraints = our_constraints() if like_ours else []
    versions = hashlib.sha256("\n".join([*exact, *constraints]).encode()).hexdigest()[:8]
    try:
        folder = CACHE.resolve() / "peers" / f"{name}-{versions}"
        return python_with(*exact, folder=folder, constraints=constraints, our_packages_behind=on_gpu)
    except subprocess.CalledProcessError as error:
        raise NotInstalled(f"pip could not install {', '.join(exact)}: exit code {error.returncode}") from error


_TRL = ("trl==1.16.0", "transformers==5.23.0", "peft==0.21.2", FOUR_BITS)
_TRL_KINDS = frozenset({"supervised", "dpo", "grpo"})

PEERS = {
    peer.name: peer
    for peer in (
        Peer("TRL default", "trl", "with_trl", _TRL, _TRL_KINDS),
        Peer("TRL best", "trl", "with_trl", _TRL, _TRL_KINDS, best=True),
        Peer(
            "Trainer", "transformers", "with_transformers",
            ("transformers==5.23.0", "peft==0.21.2", "accelerate==1.15.0", "datasets==5.2.0", FOUR_BITS),
            frozenset({"supervised", "classification"}),
        ),
        Peer(
            "ms-swift", "ms-swift", "with_ms_swift",
            ("ms-swift==4.6.0", "transformers==5.19.0", "trl==0.29.1", "peft==0.20.0", "accelerate==1.15.0", FOUR_BITS),
            frozenset({"supervised", "classification", "dpo"}), like_ours=False,
            lacks={
                "ppo": "its PPO takes a reward model, and the reward here is a rule",
                "grpo": "the benchmark has no program for its GRPO yet",
            },
        ),
        Peer(
            "LLaMA-Factory", "llama-factory", "with_llama_factory",
            (
                *("llamafactory==0.9.5", "transformers==5.6.0", "trl==0.24.0", "peft==0.18.1", "accelerate==1.11.0"),
                FOUR_BITS,
            ),
            frozenset({"supervised", "dpo"}), like_ours=False,
            # PyPI's are built for CUDA and cannot be imported beside a torch for CPUs. Text needs neither.
            without=("torchvision", "torchaudio"),
            lacks={"ppo": "its PPO needs trl 0.9.6 or older, and its own requirements exclude that"},
        ),
    )
}  # fmt: skip
