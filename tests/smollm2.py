"""SmolLM2-135M-Instruct, the demo's base model, in Attune's form.

Its weights are dequantised from 4 bits, so its answers are a little worse than the original's.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from examples.base_model import fetch_gguf

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache"


def folder() -> Path:
    """Where it lies. Made once, and again only when the conversion's code changes."""
    CACHE.mkdir(exist_ok=True)
    converted = CACHE / f"smollm2-{_code_hash()}"
    with (CACHE / "smollm2.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes that run in parallel wait for the first
        if not converted.exists():
            for outdated in CACHE.glob("smollm2-????????????"):
                shutil.rmtree(outdated)
            gguf = fetch_gguf(CACHE / "models")
            subprocess.run([sys.executable, "-m", "worker.convert", gguf, converted], check=True, cwd=ROOT)
    return converted


def _code_hash() -> str:
    sources = [ROOT / "worker" / "convert.py", *sorted((ROOT / "worker" / "bases").glob("*.py"))]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
