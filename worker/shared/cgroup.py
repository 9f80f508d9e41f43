"""The memory limits of this process's control groups (cgroups(7), versions 1 and 2).

Groups are nested by systemd's slices and by containers. The limits of the groups above this process's own count, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Files:
    """Names of a cgroup version's files."""

    limits: tuple[str, ...]
    usage: str
    cached: tuple[str, ...]
    """Lines of memory.stat that count pages which the kernel can reclaim."""


VERSION_1 = Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
VERSION_2 = Files(("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file"))


def limit_bytes(proc: Path = Path("/proc"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the lowest memory limit in bytes, or None if there is none."""
    return min((limit for _, _, limit in _limits(proc, root)), default=None)


def available_bytes(proc: Path = Path("/proc"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes of memory left below the limits, or None without a limit. Cached files do not count as used."""
    left = [limit - _used(folder, files) for folder, files, limit in _limits(proc, root)]
    return max(0, min(left)) if left else None


def out_of_memory_kills(proc: Path = Path("/proc"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many processes the kernel has killed for lack of memory so far, on this machine or in these groups."""
    counts = [_counter(proc / "vmstat", "oom_kill")]
    for folder, _ in _groups(proc, root):
        counts += [_counter(folder / name, "oom_kill") for name in ("memory.events", "memory.oom_control")]
    return max(counts)


def _limits(proc: Path, root: Path) -> Iterator[tuple[Path, Files, int]]:
    for folder, files in _groups(proc, root):
        for name in files.limits:
            number = _number(folder / name)
            if number is not None:
                yield folder, files, number


def _groups(proc: Path, root: Path) -> Iterator[tuple[Path, Files]]:
    """Yield this process's groups that account for memory, from its own upward."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            tops, files = [root, root / "unified"], VERSION_2
        elif "memory" in controllers.split(","):
            tops, files = [root / "memory"], VERSION_1
        else:
            continue
        for top in tops:
            # In a container the path may be the host's and not exist here. Then the root holds the limit.
            below = Path(path.lstrip("/"))
            yield from ((top / part, files) for part in (below, *below.parents) if (top / part).is_dir())


def _used(folder: Path, files: Files) -> int:
    cached = sum(_counter(folder / "memory.stat", name) for name in files.cached)
    return max(0, (_number(folder / files.usage) or 0) - cached)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return None


def _counter(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)
