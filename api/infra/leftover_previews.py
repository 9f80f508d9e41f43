"""Removal of the work folders that killed previews, estimates and gradings leave behind. They hold rows of users."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import structlog

from api.settings import Settings

log = structlog.get_logger(__name__)

PREFIX = "preview-"
"""Begins the name of each such folder."""
HOUR_S = 3600.0


@contextmanager
def removing_leftover_previews(settings: Settings) -> Iterator[None]:
    """Remove leftover folders now, and each hour until the block ends."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.is_set():
            remove_leftover_previews(settings)
            ended.wait(HOUR_S)

    threading.Thread(target=repeat, name="leftover-previews", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def remove_leftover_previews(settings: Settings) -> None:
    """Remove the folders that are older than an hour. Younger ones may be in use, by other processes, too."""
    min_age_s = max(HOUR_S, 3 * settings.preview_seconds)  # no child process runs that long
    for folder in settings.work.glob(f"{PREFIX}*"):
        with suppress(FileNotFoundError):  # its own process, or another one, has just removed it
            if time.time() - folder.stat().st_mtime > min_age_s:
                shutil.rmtree(folder, ignore_errors=True)
                log.info("leftover_preview_removed", folder=folder.name)
