"""Functions that return freed memory to the operating system. Otherwise the heap of glibc or tcmalloc keeps it."""

import ctypes
import gc

M_MMAP_THRESHOLD = -3
"""The number of the parameter M_MMAP_THRESHOLD of glibc's mallopt(3)."""
MMAP_THRESHOLD_BYTES = 2**20
"""Blocks above this size return to the system when the process frees them. Without this limit, glibc's heap kept half a
gigabyte after DoRA had computed its magnitudes from whole matrices of SmolLM2 (docs/engine-log.md)."""


def trim_heap() -> None:
    """Return freed memory to the system, because another process that loads the base model may need it
    (docs/engine-log.md)."""
    gc.collect()
    library = ctypes.CDLL(None)
    for name, arguments in (("malloc_trim", (0,)), ("MallocExtension_ReleaseFreeMemory", ())):
        if (release := getattr(library, name, None)) is not None:
            release(*arguments)


def return_freed_blocks() -> None:
    """Make glibc return freed blocks of more than `MMAP_THRESHOLD_BYTES` to the system. Do nothing if the C library has
    no mallopt."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
