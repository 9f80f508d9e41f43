"""Limits that a child process sets on itself before it reads users' data."""

import faulthandler
import mmap
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class CpuTimeUsedUp(Exception):
    """The process has used its processor time."""


class TooSlow(Exception):
    """One piece of work took more processor time than its limit."""


GRACE_SECONDS = 10
"""Processor time between CpuTimeUsedUp and the end of the process, in which it writes its report."""

shared_bytes = 0
"""Private memory that this process's parent filled for its forks to read. It is theirs by the kernel's count, but takes
no further memory, so that limits leave it out."""


def limit_process(*, memory_bytes: int | None, cpu_seconds: int | None, file_bytes: int | None) -> None:
    """Limit this process: more memory raises MemoryError, more processor time CpuTimeUsedUp, a larger file OSError.
    Also disable core dumps."""
    _lower(resource.RLIMIT_CORE, 0, 0)
    if memory_bytes is not None:
        # Private memory, not address space: a mapped file takes no memory, however large it is.
        _lower(resource.RLIMIT_DATA, memory_bytes + shared_bytes, memory_bytes + shared_bytes)
    if cpu_seconds is not None:
        signal.signal(signal.SIGXCPU, _cpu_time_used_up)
        _lower(resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + GRACE_SECONDS)
    if file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        _lower(resource.RLIMIT_FSIZE, file_bytes, file_bytes)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooSlow if the work in the `with` block takes more processor time. The clock would also count other work on
    the machine. Use the limit in the main thread only, and not nested."""
    previous = signal.signal(signal.SIGPROF, _too_slow)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def require_memory(bytes_total: int) -> None:
    """Raise MemoryError if this much memory cannot be allocated. Call it before a library that aborts the process when
    memory runs out."""
    try:
        mmap.mmap(-1, bytes_total, flags=mmap.MAP_PRIVATE).close()  # untouched, it takes address space only
    except OSError:
        raise MemoryError from None


@contextmanager
def exit_if_stuck(seconds: float) -> Iterator[None]:
    """Print the stacks of all threads and end the process if the work in the `with` block takes longer, even if it is
    stuck in native code."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _lower(which: int, soft: int, hard: int) -> None:
    """Set a resource limit of this process, but not above the limit inherited from its parent."""
    _, inherited = resource.getrlimit(which)
    if inherited != resource.RLIM_INFINITY:
        soft, hard = min(soft, inherited), min(hard, inherited)
    resource.setrlimit(which, (soft, hard))


def _cpu_time_used_up(_signal: int, _frame: FrameType | None) -> None:
    raise CpuTimeUsedUp


def _too_slow(_signal: int, _frame: FrameType | None) -> None:
    raise TooSlow
