"""Builds of the Dockerfile's targets by Debian's buildah, which needs neither a daemon nor a kernel's namespaces."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.source import ROOT

DOCKERFILE = ROOT / "Dockerfile"
TARGETS = ("api", "worker", "deliver", "objects")
CERTIFICATES = Path("/etc/ssl/certs")
PACKAGES = ("python3", "python3-venv", "python3-pip", "ca-certificates")
RELEASE, MIRROR = "bookworm", "http://deb.debian.org/debian"


def buildah(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"buildah {arguments[0]} failed:\n{done.stderr[-4000:]}")
    return done.stdout.strip()


def require_programs() -> None:
    missing = [name for name in ("buildah", "debootstrap", "setpriv", "unshare") if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"{', '.join(missing)}: not installed (on Debian: apt install buildah debootstrap util-linux)")


def provide_base(work: Path) -> None:
    """Pull the Dockerfile's base image, or put a root of Debian with Debian's Python in its place."""
    found = re.search(r"^FROM (\S+) AS base$", DOCKERFILE.read_text(), re.MULTILINE)
    assert found is not None, DOCKERFILE
    pulled = subprocess.run(["buildah", "pull", "--policy=missing", found[1]], capture_output=True, check=False)
    if pulled.returncode == 0:
        print(f"base: {found[1]}")
        return
    print(f"base: {found[1]} cannot be pulled. A root of Debian {RELEASE} with its Python is in its place.")
    root = work / "root"
    include = f"--include={','.join(PACKAGES)}"
    subprocess.run(
        ["debootstrap", "--variant=minbase", include, RELEASE, root, MIRROR], check=True, capture_output=True
    )
    (root / "usr/bin/python").symlink_to("python3")
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()  # the Python of the real base image belongs to no package manager
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(root), "/")
    buildah("commit", "--quiet", "--rm", container, f"docker.io/library/{found[1]}")
    shutil.rmtree(root)


def build(target: str, pip_args: str) -> str:
    """Build the target, and return its image's name."""
    image = f"attune-{target}:check"
    # The machine's certificates, and the folders that pip is told to look in.
    volumes = [CERTIFICATES, *(Path(word) for word in pip_args.split() if Path(word).is_dir())]
    buildah(
        "bud",
        "--isolation=chroot",
        "--format=docker",  # OCI's format has no health checks
        "--layers",
        "--pull-never",
        *(f"--volume={path}:{path}:ro" for path in volumes),
        f"--build-arg=PIP_ARGS={pip_args}",
        f"--target={target}",
        f"--tag={image}",
        str(ROOT),
    )
    print(f"built: {image}")
    return image


def configuration(image: str) -> dict[str, Any]:
    """Return the image's user, command and environment."""
    found: dict[str, Any] = json.loads(buildah("inspect", "--type=image", image))["Docker"]["config"]
    return found
