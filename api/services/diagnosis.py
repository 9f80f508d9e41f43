"""Checks of a deployment from this machine: of the machine's own components, and of services that it connects to.

`attune doctor` runs all of them, and the API those that need no shell (api.services.checkup).
"""

import fcntl
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import time
from typing import Literal

from redis import RedisError
from redis.exceptions import OutOfMemoryError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from api.context import Context
from api.infra.doorbell import require_space
from api.infra.storage import Storage, StorageFull, StorageUnavailable
from api.records import Database
from api.records.migrate import WrongSchema, require_current, schema_version
from api.services import storage_marker
from api.services.storage_marker import WrongStorage
from api.settings import Settings

LOW_DISK_BYTES, NO_DISK_BYTES = 10 * 10**9, 10**9
CLOCK_S = (5, 300)
"""Limits of the difference between two clocks, in seconds. A larger difference is a warning above the first limit, a
problem above the second."""
TRAINER_LIBRARIES = ("torch", "transformers", "peft", "safetensors")
NVIDIA = Path("/proc/driver/nvidia/gpus")
"""The driver's folder, which has an entry for each GPU."""
GPU_CHECK_S = 120

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    component: str
    status: Status
    detail: str
    remedy: str | None = None
    """A sentence that names the action; None if nothing is wrong."""


def check_components(settings: Settings) -> Iterator[Check]:
    yield check_data_folder(settings)
    yield from (database := list(check_database(settings)))
    yield (storage := check_storage(settings))
    if all(check.status == "ok" for check in (*database, storage)):
        yield from _check_marker(settings)
    yield check_broker(settings)
    yield check_disk(settings)
    yield check_libraries()
    yield _check_gpus()


def check_clock(difference_s: float, other: str) -> Check:
    """Return the check of this machine's clock, which is `difference_s` seconds ahead of the clock of `other`."""
    detail = f"differs from the {other}'s by {abs(difference_s):.0f} s"
    if abs(difference_s) <= CLOCK_S[0]:
        return Check("clock", "ok", detail)
    status: Status = "warning" if abs(difference_s) <= CLOCK_S[1] else "problem"
    return Check("clock", status, detail, "Synchronize the clocks of all machines, for example with chrony.")


def running_up(settings: Settings) -> str | None:
    """Return the process id of the `attune up` that uses the data folder, or "unknown" if it did not write its id.
    Return None if no `attune up` uses the folder."""
    try:
        with (settings.data_dir / "up.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read().strip() or "unknown"
    except OSError:
        pass
    return None


def check_data_folder(settings: Settings) -> Check:
    folder = settings.data_dir.resolve()
    if not folder.is_dir():
        if not make_url(settings.database).drivername.startswith("sqlite"):
            return Check(
                "data folder", "ok", f"{folder} does not exist yet: a worker or `attune models add` creates it"
            )
        return Check("data folder", "problem", f"{folder} does not exist", "Start `attune up`, or give --data-dir.")
    credentials = settings.credentials_file
    if credentials.exists() and stat.S_IMODE(credentials.stat().st_mode) & 0o077:
        return Check(
            "data folder", "problem", f"other users can read {credentials}", f"Run: chmod 600 {credentials.resolve()}"
        )
    url = make_url(settings.database)
    if url.drivername.startswith("sqlite") and _others_read(database := Path(url.database or "")):
        detail = f"other users can read {database}, with the secrets of webhooks and the key that signs models"
        return Check("data folder", "problem", detail, f"Run: chmod 700 {database.parent}")
    return Check("data folder", "ok", str(folder))


def _others_read(file: Path) -> bool:
    return file.is_file() and bool(file.stat().st_mode & 0o044 and file.parent.stat().st_mode & 0o011)


def check_database(settings: Settings) -> Iterator[Check]:
    """Yield the checks of the database, its schema and, if it runs on another machine, its clock."""
    name = make_url(settings.database).render_as_string(hide_password=True)
    if name.startswith("sqlite") and not Path(make_url(settings.database).database or "").exists():
        yield Check("database", "problem", f"{name} does not exist yet", "Start `attune up`, or run `attune migrate`.")
        return
    database = Database(settings.database)
    try:
        ahead_s = time() - database.clock()
        yield Check("database", "ok", f"{name} answers")
        yield _check_schema(database)
        if not database.is_sqlite:
            yield check_clock(ahead_s, "database")
    except SQLAlchemyError as error:
        cause = " ".join(str(getattr(error, "orig", None) or type(error).__name__).split())
        yield Check("database", "problem", f"{name} does not answer: {cause}", database_remedy(settings))
    finally:
        database.dispose()


def database_remedy(settings: Settings) -> str:
    """Return what to do about a database that does not answer."""
    if make_url(settings.database).drivername.startswith("sqlite"):
        return "Restore a backup if the file is damaged, or end the program that locks it."
    return "Start it, or correct ATTUNE_DATABASE_URL."


def _check_schema(database: Database) -> Check:
    try:
        require_current(database)
    except WrongSchema as error:
        return _problem("schema", error)
    return Check("schema", "ok", f"version {schema_version(database)}, the newest")


def check_storage(settings: Settings) -> Check:
    """Check that an object can be stored and deleted."""
    url = settings.storage
    remedy = "Check ATTUNE_STORAGE_URL and the credentials of the storage (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …)."
    if "://" not in url:
        if not Path(url).is_dir():
            return Check("storage", "problem", f"{url} does not exist", "Start `attune up`, or set ATTUNE_STORAGE_URL.")
        remedy = f"Make {url} writable for this user."
    try:
        Storage(url).probe()
    except StorageFull:
        return Check("storage", "problem", f"{url} is full", "Free space, or run `attune storage collect --remove`.")
    except StorageUnavailable as error:
        cause = " ".join(str(error.__cause__ or error).split())[:300]
        return Check("storage", "problem", f"no object can be stored in {url}: {cause}", remedy)
    return Check("storage", "ok", f"{url}: objects can be stored and deleted")


def _check_marker(settings: Settings) -> Iterator[Check]:
    context = Context.open(settings)
    try:
        yield from check_marker(context)
    finally:
        context.database.dispose()


def check_marker(context: Context) -> Iterator[Check]:
    """Yield a problem if the storage belongs to another database (api.services.storage_marker)."""
    try:
        storage_marker.require(context)
    except WrongStorage as error:
        yield _problem("storage", error)


def _problem(name: str, error: Exception) -> Check:
    """Return the problem that an error reports as "detail: remedy"."""
    detail, _, remedy = str(error).partition(": ")
    return Check(name, "problem", detail, f"{remedy[:1].upper()}{remedy[1:]}")


def check_broker(settings: Settings) -> Check:
    if not settings.broker_url.get_secret_value():
        process = running_up(settings)
        if process is None:
            return Check(
                "broker", "problem", "none is set, and no `attune up` runs on this folder",
                "Start `attune up`, or set ATTUNE_BROKER_URL to a redis:// address.",
            )  # fmt: skip
        return Check("broker", "ok", f"started by `attune up` (process {process})")
    address = settings.broker_url.get_secret_value().rpartition("@")[2].removeprefix("redis://")
    try:
        require_space(settings.broker_url)
    except OutOfMemoryError:
        return Check(
            "broker", "problem", f"{address} is full, so it takes no requests and no reports of processes",
            "Raise its maxmemory. Attune needs a few megabytes, and as much as the requests that wait.",
        )  # fmt: skip
    except RedisError as error:
        cause = " ".join(str(error).split())
        return Check(
            "broker", "problem", f"{address} does not answer: {cause}", "Start it, or correct ATTUNE_BROKER_URL."
        )
    return Check("broker", "ok", f"{address} answers")


def check_disk(settings: Settings) -> Check:
    """Check the free space of the disks that hold the data, the objects and the workers' files. Report the disk with
    the least."""
    folders = [settings.data_dir, settings.work]
    if "://" not in settings.storage:
        folders.append(Path(settings.storage))
    free = {folder: shutil.disk_usage(folder).free for folder in folders if folder.is_dir()}
    if not free:
        return Check("disk", "ok", "no folder of this service exists yet")
    folder = min(free, key=lambda each: free[each])
    detail = f"{free[folder] / 1e9:.1f} GB free for {folder.resolve()}"
    if free[folder] > LOW_DISK_BYTES:
        return Check("disk", "ok", detail)
    remedy = "Free space: `attune storage collect --remove` deletes objects that nothing refers to."
    return Check("disk", "problem" if free[folder] < NO_DISK_BYTES else "warning", detail, remedy)


def check_libraries() -> Check:
    """Check that the libraries are installed with which a worker loads models."""
    missing = [name for name in TRAINER_LIBRARIES if find_spec(name) is None]
    if missing:
        detail = f"{', '.join(missing)} not installed: nothing on this machine can train, chat or convert base models"
        remedy = "Install Attune with the libraries of workers: pip install '.[worker]' in the folder of its source."
        return Check("trainer", "warning", detail, remedy)
    return Check("trainer", "ok", f"{', '.join(TRAINER_LIBRARIES)} installed")


def _check_gpus() -> Check:
    count = len(list(NVIDIA.iterdir())) if NVIDIA.is_dir() else 0
    if count == 0:
        return Check("GPU", "ok", "none on this machine: jobs train on its processor")
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        count = min(count, sum(name.strip() not in ("", "-1") for name in named.split(",")))
        if count == 0:
            return Check("GPU", "ok", "hidden by CUDA_VISIBLE_DEVICES: jobs train on this machine's processor")
    if find_spec("torch") is None:
        return Check("GPU", "ok", f"{count} on this machine")
    # Torch is loaded by another process: neither the API nor its commands import it. torch counts GPUs without CUDA, so
    # its count alone includes those of a driver that is too old.
    program = "import torch; usable = torch.cuda.is_available() and torch.cuda.device_count()"
    program += "; print(int(usable), torch.version.cuda)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=GPU_CHECK_S, check=True
        )
    except (subprocess.SubprocessError, OSError):
        return Check("GPU", "problem", "torch does not start", f"See why: {sys.executable} -c 'import torch'")
    usable, cuda = done.stdout.split()
    if int(usable) < count:
        remedy = "Install a torch built for this driver's CUDA (pytorch.org lists them), or update the driver."
        return Check("GPU", "problem", f"{count} on this machine, but torch (CUDA {cuda}) can use {usable}", remedy)
    return Check("GPU", "ok", f"{count}, usable by torch (CUDA {cuda})")
