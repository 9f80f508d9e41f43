"""What the control groups of this process let it take of the machine's memory (cgroups(7), versions 1 and 2).

A limit of any group above counts, too: systemd's slices and containers nest them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Files:
    """What a version calls its files."""

    limits: tuple[str, ...]
    usage: str
    cached: tuple[str, ...]
    """Lines of memory.stat: pages that the kernel takes back when it needs them."""


VERSION_1 = Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
VERSION_2 = Files(("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file"))


def limit_bytes(proc: Path = Path("/proc"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The lowest limit; None where there is none."""
    return min((limit for _, _, limit in _limits(proc, root)), default=None)


def available_bytes(proc: Path = Path("/proc"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What is left below the limits, cached files not counted; None where there is none."""
    left = [limit - _used(folder, files) for folder, files, limit in _limits(proc, root)]
    return max(0, min(left)) if left else None


def out_of_memory_kills(proc: Path = Path("/proc"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """How many processes the kernel has killed for memory so far, on this machine or in these groups."""
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
    """This process's groups that account for memory, from its own up."""
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
            # Within a container the path may be the host's, which is not to be seen there: the top is then the limit.
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
