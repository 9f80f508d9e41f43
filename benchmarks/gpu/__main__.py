"""What only a GPU shows, in parts: `python -m benchmarks.gpu [--device cpu --small] [--only packed …]`.

All models are random, so nothing but TRL is downloaded. The parts come in the order of their importance, because a GPU
may be lent for minutes only. Each part is a process with a time limit, and the others run if it fails.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
INSTALLATION = "TRL"
DONE = "done"


@dataclass(frozen=True)
class Part:
    name: str
    limit_s: int
    question: str
    command: tuple[str, ...]
    """The module, and its arguments."""
    takes_small: bool = True
    """Whether the module has the option `--small`. If not, the part is left out with `--small`."""


SPEED = "benchmarks.gpu.speed"
PARTS = (
    Part("packed", 180, "Do packed rows train as whole sequences do?", ("benchmarks.gpu.packed",)),
    Part("resume", 120, "Does a killed run repeat itself?", ("benchmarks.gpu.resume",)),
    Part(INSTALLATION, 120, "Can TRL be installed?", (SPEED, "0.5B", "--install")),
    Part("0.5B", 240, "How fast is LoRA of 0.5 billion weights?", (SPEED, "0.5B")),
    Part("1B", 240, "How fast is LoRA of 1.2 billion weights?", (SPEED, "1B")),
    Part("8B", 420, "How fast is LoRA of 8 billion weights?", (SPEED, "8B")),
    Part("sampling", 180, "How fast are answers sampled?", ("benchmarks.gpu.sampling",)),
    Part("techniques", 240, "How fast is a step, by technique and micro-batch?", ("benchmarks.gpu.techniques",)),
    Part(
        "estimates", 900, "Are memory and time predicted?",
        ("benchmarks.estimates", "--rounds", "1", "--only", "tiny,encoder,middle,wide,deep,reader"), takes_small=False,
    ),
    Part("pairs", 3600, "Does every technique train with every method?", ("benchmarks.gpu.pairs",)),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny models and short rows, to try the parts on a CPU")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS])
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        sys.exit("torch finds no GPU. To try the parts on a CPU: --device cpu --small")
    print(f"torch {torch.__version__} on {options.device}")
    began_s = time.monotonic()
    outcomes: dict[str, str] = {}
    for part in PARTS:
        if (options.only and part.name not in options.only) or (options.small and not part.takes_small):
            continue
        print(f"\n== {part.name}: {part.question} (after {time.monotonic() - began_s:.0f} s)", flush=True)
        arguments = ["--small"] * options.small
        if part.command[0] == SPEED and outcomes.get(INSTALLATION, DONE) != DONE:
            arguments += ["--without-trl", "it could not be installed"]
        outcomes[part.name] = run([*part.command, *arguments], part.limit_s)
        print(f"== {part.name}: {outcomes[part.name]}", flush=True)
    print(f"\nSummary, after {time.monotonic() - began_s:.0f} s")
    for name, outcome in outcomes.items():
        print(f"{name:10}  {outcome}")
    sys.exit(any(outcome != DONE for name, outcome in outcomes.items() if name != INSTALLATION))


def run(command: list[str], limit_s: int) -> str:
    """Run the module in a process of its own. End it with its children after `limit_s` seconds. Return the outcome."""
    child = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, start_new_session=True)
    try:
        code = child.wait(limit_s)
    except subprocess.TimeoutExpired:
        return f"ended after its limit of {limit_s} s"
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return DONE if code == 0 else f"failed, exit code {code}"


if __name__ == "__main__":
    main()
