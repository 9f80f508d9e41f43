"""Runs `attune up` as a child process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ATTUNE = [sys.executable, "-m", "api.cli"]
"""The `attune` command of this Python, which works without its folder on the PATH."""

STOP_S = 90


@contextmanager
def running_service(data_dir: Path, log: Path) -> Iterator[dict[str, str]]:
    """Start the service, yield its `{"base_url": …, "api_key": …}` once it is ready, and stop it at the end."""
    data_dir.mkdir(parents=True, exist_ok=True)
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    os.environ["no_proxy"] = f"{direct},127.0.0.1" if direct else "127.0.0.1"  # the service is on this machine
    command = [*ATTUNE, "up", "--port", "0", "--data-dir", str(data_dir)]
    with log.open("w") as file, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True) as service:
        assert service.stdout is not None
        try:
            for line in service.stdout:
                if line.startswith("ready "):
                    break
            else:
                raise SystemExit(f"The service did not start:\n{log.read_text()[-2000:]}")
            yield json.loads((data_dir / "credentials.json").read_text())
        finally:
            service.terminate()
            try:
                service.wait(STOP_S)
            except subprocess.TimeoutExpired:
                service.kill()
