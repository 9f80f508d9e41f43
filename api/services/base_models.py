"""The operator's management of base models: add, verify, remove. The server need not run."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from api.context import Context
from api.errors import InvalidRequest, NotFound
from api.infra.storage import ObjectMissing
from api.infra.unused_objects import delete_unused
from api.records import base_models, jobs, models
from api.records.base import db_now
from api.records.base_models import BaseModelRow
from api.spec.artifacts import Artifact
from api.spec.file_hash import file_sha256

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
FACTS_FILE = "attune.json"
INHERITED_VARIABLES = re.compile(
    r"PATH|HOME|LANG|LC_ALL|LD_.*|VIRTUAL_ENV|PYTHON.*|OMP_.*|TMPDIR|SSL_CERT_.*|(HF|HUGGING_?FACE|XDG)_.*|REQUESTS_CA_BUNDLE"
    r"|(?i:https?|all|no)_proxy"
)
LOG_BYTES = 4096
REPORT_S = 0.5


class NotConvertible(InvalidRequest):
    """The source cannot be converted to a base model; the message gives the reason."""


def _ignore(activity: str, count: int) -> None:
    pass


Report = Callable[[str, int], None]
"""Function that is called about twice a second with the current activity and the number of bytes written so far."""


def add(
    context: Context, name: str, source: str, *, revision: str | None = None, report: Report = _ignore
) -> BaseModelRow:
    """Convert a base model to safetensors, store its files and list it. `source`: a hub id, a folder or a GGUF file."""
    _check_name(context, name)
    with _converted(context, source, revision, report) as folder:
        return register(context, name, folder, report)


def register(context: Context, name: str, folder: Path, report: Report = _ignore) -> BaseModelRow:
    """Store and list a base model that `worker.convert` has written to this folder."""
    _check_name(context, name)
    facts = json.loads((folder / FACTS_FILE).read_bytes())
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FACTS_FILE)
    hashes = {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}
    digest = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
    artifacts: list[Artifact] = []
    for file, sha256 in hashes.items():
        report("storing", sum(artifact["bytes"] for artifact in artifacts))
        key = f"base/{digest}/{file}"
        stored = context.storage.write_file(key, folder / file)
        artifacts.append({"name": file, "bytes": stored.bytes, "sha256": sha256, "key": key})
    base = BaseModelRow(name=name, digest=digest, facts=facts, artifacts=artifacts, created_at=db_now())
    with context.database.write() as session:
        session.add(base)
        session.flush()
        session.refresh(base)
    return base


def _check_name(context: Context, name: str) -> None:
    if not NAME.fullmatch(name) or len(name) > 128:
        raise InvalidRequest(
            f"'{name[:64]}' is not a valid name for a model: use letters, digits, `.`, `_`, `-` and at most one slash"
        )
    with context.database.read() as session:
        if base_models.get(session, name) is not None:
            raise InvalidRequest(f"There is already a base model '{name}': remove it first, or choose another name")


@contextmanager
def _converted(context: Context, source: str, revision: str | None, report: Report) -> Iterator[Path]:
    """Yield a temporary folder with the source converted to safetensors. The conversion needs torch, so it runs in a
    process of its own."""
    context.settings.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=context.settings.work) as folder:
        command = [sys.executable, "-m", "worker.convert", source, f"{folder}/model"]
        command += ["--memory-bytes", str(context.settings.convert_memory_bytes)]
        if revision is not None:
            command += ["--revision", revision]
        _run(command, Path(folder), context.settings.convert_seconds, source, report)
        yield Path(folder) / "model"


def _run(command: list[str], folder: Path, timeout_s: float, source: str, report: Report) -> None:
    """Run the command, which writes into the folder. Raise NotConvertible if the command fails or times out; after a
    failure, the message is the last line that the command wrote."""
    output, deadline = folder / "log.txt", time.monotonic() + timeout_s
    activity = "converting" if Path(source).expanduser().exists() else "downloading and converting"
    with (
        output.open("wb") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment()) as process,
    ):
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise NotConvertible(
                        f"converting {source} was stopped after {timeout_s:.0f} s. If the model is large, set "
                        "ATTUNE_CONVERT_SECONDS higher"
                    )
                report(activity, _bytes_in(folder))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(min(REPORT_S, max(0.0, deadline - time.monotonic())))
        finally:
            process.kill()
    if process.returncode != 0:
        lines = output.read_bytes()[-LOG_BYTES:].decode(errors="replace").strip().splitlines()
        raise NotConvertible(
            lines[-1].removeprefix("error: ")
            if lines
            else f"{source} could not be converted: exit code {process.returncode}"
        )


def _bytes_in(folder: Path) -> int:
    """Return the size of all files below the folder. Files that vanish meanwhile are left out."""
    count = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            count += path.stat(follow_symlinks=False).st_size if path.is_file() else 0
    return count


def _environment() -> dict[str, str]:
    """Return the environment variables for the conversion, without secrets such as passwords of the database or
    storage."""
    return {name: value for name, value in os.environ.items() if INHERITED_VARIABLES.fullmatch(name)}


def listed(context: Context) -> Sequence[BaseModelRow]:
    with context.database.read() as session:
        return base_models.listed(session)


def get(context: Context, name: str) -> BaseModelRow:
    with context.database.read() as session:
        base = base_models.get(session, name)
    if base is None:
        raise NotFound(f"There is no base model '{name[:128]}': `attune models list` lists the base models")
    return base


def verify(context: Context, name: str) -> list[str]:
    """Compare every stored artifact with its recorded hash. Return a message for each artifact that is missing or
    differs."""
    problems = []
    for artifact in get(context, name).artifacts:
        digest = hashlib.sha256()
        try:
            for chunk in context.storage.read(artifact["key"]):
                digest.update(chunk)
        except ObjectMissing:
            problems.append(f"{artifact['name']} is missing")
            continue
        if digest.hexdigest() != artifact["sha256"]:
            problems.append(f"{artifact['name']} differs from the file that was stored: its sha256 does not match")
    return problems


def remove(context: Context, name: str) -> None:
    """Remove a base model. Raise InvalidRequest while a job or a published model needs it."""
    with context.database.write() as session:
        base = base_models.get_to_remove(session, name)
        if base is None:
            raise NotFound(f"There is no base model '{name[:128]}'")
        users = [*jobs.using_base(session, name), *(model.id for model in models.of_base(session, name))]
        if users:
            raise InvalidRequest(
                f"'{name}' is needed by {', '.join(users[:5])}: cancel these jobs, or delete these models, first"
            )
        base_models.remove(session, name)
        shared = any(other.digest == base.digest for other in base_models.listed(session))
    if not shared:
        delete_unused(partial(context.storage.delete, [artifact["key"] for artifact in base.artifacts]))
