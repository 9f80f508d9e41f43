"""The request, the limits and the report of a program behind the wall (docs/internals/wall.md): prepare, scan, preview
and grade."""

from pathlib import Path

import msgspec

from worker.rows.limits import limit_process
from worker.rows.readers import ReadLimits


class ProcessLimits(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Limits that a program sets on itself before it reads users' data. None means unlimited."""

    memory_bytes: int | None = None
    """Private memory of the process."""
    cpu_seconds: int | None = None
    file_bytes: int | None = None
    """Size of the largest file that the process may write."""

    def apply(self) -> None:
        """Limit this process."""
        limit_process(memory_bytes=self.memory_bytes, cpu_seconds=self.cpu_seconds, file_bytes=self.file_bytes)


class RowLimits(ProcessLimits, kw_only=True):
    """Limits on the process, and on the file of rows that it reads."""

    line_bytes: int = ReadLimits.line_bytes
    rows: int = ReadLimits.rows
    decompressed_bytes: int = ReadLimits.decompressed_bytes

    def read_limits(self) -> ReadLimits:
        """Return the limits on the file alone."""
        return ReadLimits(self.line_bytes, self.rows, self.decompressed_bytes)


def write_report(folder: Path, report: bytes) -> None:
    """Write report.json in one step, so that no reader finds a partly written file."""
    partial = folder / "report.json.partial"
    partial.write_bytes(report)
    partial.replace(folder / "report.json")
