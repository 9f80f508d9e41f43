"""Files as they go out."""

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel

from api.records.files import File
from api.schemas.common import ends, seconds


class FileScan(BaseModel):
    """What a file was found to hold, soon after it was uploaded, whatever job it may be for."""

    status: Literal["pending", "done", "failed"]
    format: str | None = None
    """Null until it is known, or where the rows' keys show none."""
    rows: int | None = None
    container: str | None = None
    findings: list[dict[str, Any]] = []
    """The first hundred: line (row, where rows are no lines), severity, code, message."""
    finding_counts: dict[str, int] = {}
    """Of all of them, by code."""
    error: str | None = None
    """Why the file cannot be read."""

    @classmethod
    def of(cls, file: File) -> Self | None:
        if file.scan_status is None:
            return None
        return cls.model_validate({"status": file.scan_status, **(file.scan or {})})


class FileObject(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed", "error"] = "processed"
    status_details: str | None = None
    expires_at: int | None = None
    sha256: str | None = None
    scan: FileScan | None = None
    """Of a file with purpose fine-tune."""

    @classmethod
    def of(cls, file: File) -> Self:
        scan = FileScan.of(file)
        unreadable = scan is not None and scan.status == "failed"
        return cls(
            status="error" if unreadable else "processed",
            status_details=scan.error if scan is not None and unreadable else None,
            scan=scan,
            id=file.id,
            bytes=file.bytes,
            created_at=int(file.created_at),
            filename=file.filename,
            purpose=file.purpose,
            expires_at=seconds(file.expires_at),
            sha256=file.sha256,
        )


class FileList(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileObject]
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, rows: Sequence[File], has_more: bool) -> Self:
        return cls(data=[FileObject.of(row) for row in rows], has_more=has_more, **ends(rows))
