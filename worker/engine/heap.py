"""Returns freed memory to the operating system. Otherwise the heap of glibc or tcmalloc keeps it."""

import ctypes
import gc

M_MMAP_THRESHOLD = -3
"""The number of the parameter M_MMAP_THRESHOLD of glibc's mallopt(3)."""
MMAP_THRESHOLD_BYTES = 2**20
"""Blocks above this size return to the system when the process frees them. glibc's heap keeps them otherwise: half a
gigabyte for DoRA on SmolLM2, whose magnitudes are computed from whole matrices (docs/engine-log.md)."""


def trim_heap() -> None:
    """Return freed memory to the system, because another process that loads the base model may need it
    (docs/engine-log.md)."""
    gc.collect()
    library = ctypes.CDLL(None)
    for name, arguments in (("malloc_trim", (0,)), ("MallocExtension_ReleaseFreeMemory", ())):
        if (release := getattr(library, name, None)) is not None:
            release(*arguments)


def return_freed_blocks() -> None:
    """Make glibc, where it is the C library, return freed blocks of more than `MMAP_THRESHOLD_BYTES` to the system."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
