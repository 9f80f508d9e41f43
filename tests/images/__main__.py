"""`make images-check`: build every image, and run one job through all of them.

PostgreSQL and Valkey come from the wheels that the tests use; everything else runs from the images. What compose adds
(networks, health checks, volumes) is checked from its file by tests/test_deployment.py.
"""

import argparse
import json
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

from openai import OpenAI

from tests.end_to_end.jobs import create, rows, upload, wait_until
from tests.images.build import TARGETS, build, provide_base, require_programs
from tests.images.container import Container, Image
from tests.services import Postgres, SeaweedS3, Valkey
from tests.services.process import free_ports
from tests.services.s3 import FLAGS
from tests.tiny_models import make_model

FINAL = ("succeeded", "failed", "cancelled")


class ImageS3(SeaweedS3):
    """The tests' S3 store, run from the image."""

    def __init__(self, folder: Path, image: Image, shared: Path) -> None:
        super().__init__(folder)
        self.container = Container(image, "objects", folder / "container", self.env, shared)

    def start(self) -> None:
        ports = [f"-{flag}={port}" for flag, port in self.ports.items()]
        self.container.start("server", "-dir=/data", *FLAGS, *ports, ready=self._holds_objects)

    def stop(self) -> None:
        self.container.kill()


def main(pip_args: str) -> None:
    if os.getuid() != 0:
        raise SystemExit("make images-check mounts file systems: run it as root")
    require_programs()
    os.umask(0o022)  # the images' user reads the model and the base
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attune-images-")))
        work.chmod(0o711)
        base = provide_base(work)
        images = {}
        for target in TARGETS:
            images[target] = Image(build(target, base, pip_args))
            stack.callback(images[target].remove)
        run_job(stack, images, work)
    print("every image was built, and one job ran through all of them")


def run_job(stack: ExitStack, images: dict[str, Image], work: Path) -> None:
    """Start each image's command as compose does, and wait for a job and a completion."""
    shared = work / "shared"
    for path in make_model(shared / "tiny", family="llama", seed=0).iterdir():
        path.chmod(0o644)  # for the images' user
    postgres, valkey = Postgres(folder(work, "postgres")), Valkey(folder(work, "valkey"))
    objects = ImageS3(folder(work, "objects"), images["objects"], shared)
    for server in (postgres, valkey, objects):
        server.start()
        stack.callback(server.stop)
    port = free_ports(1)[0]
    env = {
        "ATTUNE_DATABASE_URL": postgres.url(postgres.database()),
        "ATTUNE_BROKER_URL": valkey.url,
        "ATTUNE_STORAGE_URL": "s3://attune/objects",
        "ATTUNE_HOST": "127.0.0.1",
        "ATTUNE_PORT": str(port),
        **objects.env,
    }

    def container(name: str, image: str) -> Container:
        made = Container(images[image], name, work / name, env, shared)
        stack.callback(made.stop)
        return made

    container("migrate", "api").run("migrate")
    api = container("api", "api")
    api.start(ready=lambda: api.is_healthy("8000", env["ATTUNE_PORT"]))
    tools = container("tools", "worker")
    tools.run("models", "add", "tiny", "/mnt/tiny")
    key = json.loads(tools.run("keys", "create", "--name", "check", "--json"))["api_key"]
    container("worker", "worker").start("worker", "--stage", "prepare", "--stage", "train")
    container("sampler", "worker").start("worker", "--stage", "sample")
    container("deliver", "deliver").start()
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key)
    job_id = create(client, upload(client, rows(12)), steps=4)
    wait_until(lambda: client.fine_tuning.jobs.retrieve(job_id).status in FINAL, timeout_s=600)
    job = client.fine_tuning.jobs.retrieve(job_id)
    assert job.status == "succeeded", job.error
    message = {"role": "user", "content": "abcd"}
    answer = client.chat.completions.create(model=str(job.fine_tuned_model), messages=[message], max_tokens=4)  # type: ignore[list-item]
    assert answer.choices
    print(f"job: {job.id} succeeded, and {job.fine_tuned_model} answers")


def folder(work: Path, name: str) -> Path:
    path = work / name
    path.mkdir()
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pip-args", default="", help="PIP_ARGS of the images, for example --find-links FOLDER")
    main(parser.parse_args().pip_args)
