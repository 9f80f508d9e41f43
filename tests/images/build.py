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
STAND_IN = "localhost/attune-base:check"
"""The image in place of a base that cannot be pulled. It has a name of its own, so that no other build takes it."""
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


def provide_base(work: Path) -> str:
    """Pull the Dockerfile's base image, or put a root of Debian with Debian's Python in its place. Return its name."""
    found = re.search(r"^FROM (\S+) AS base$", DOCKERFILE.read_text(), re.MULTILINE)
    assert found is not None, DOCKERFILE
    name = f"docker.io/library/{found[1]}"
    pulled = subprocess.run(["buildah", "pull", "--policy=missing", name], capture_output=True, text=True, check=False)
    if pulled.returncode == 0:
        print(f"base: {name}")
        return name
    reason = pulled.stderr.strip().rpartition("\n")[2]
    print(f"base: {name} cannot be pulled ({reason}). A root of Debian {RELEASE} with its Python is in its place.")
    if not buildah("images", "--quiet", f"--filter=reference={STAND_IN}"):
        make_stand_in(work / "root")
    return STAND_IN


def make_stand_in(root: Path) -> None:
    """Make the image STAND_IN by debootstrap, which fills the folder `root`."""
    include = f"--include={','.join(PACKAGES)}"
    command = ["debootstrap", "--variant=minbase", include, RELEASE, str(root), MIRROR]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"debootstrap failed:\n{done.stdout[-4000:]}")
    (root / "usr/bin/python").symlink_to("python3")
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()  # the Python of the real base image belongs to no package manager
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(root), "/")
    buildah("commit", "--quiet", "--rm", container, STAND_IN)
    shutil.rmtree(root)


def build(target: str, base: str, pip_args: str) -> str:
    """Build the target, and return its image's name."""
    image = f"attune-{target}:check"
    # The machine's certificates, and the folders that pip is told to look in.
    volumes = [path for path in (CERTIFICATES, *map(Path, pip_args.split())) if path.is_dir()]
    buildah(
        "bud",
        "--isolation=chroot",
        "--format=docker",  # OCI's format has no health checks
        "--layers",
        "--pull-never",
        *(f"--volume={path}:{path}:ro" for path in volumes),
        f"--build-arg=PIP_ARGS={pip_args}",
        f"--from={base}",
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
