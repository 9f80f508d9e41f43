"""Files: the form that uploads one, and the objects in responses."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ValidationError

from api.errors import InvalidRequest
from api.infra.multipart import Form
from api.records.files import File
from api.schemas.common import ends, seconds
from api.schemas.stored import StoredJson, stored
from api.services.file_reports import Report
from api.services.files import ExpiresAfter, FileRequest, check_purpose

_EXPIRES_AFTER = {f"expires_after[{name}]": name for name in ExpiresAfter.model_fields}


def file_request(form: Form) -> FileRequest:
    """Return the upload that the form requests. Raise InvalidRequest for a missing, unknown or wrong field."""
    unknown = sorted(form.fields.keys() - {"purpose", *_EXPIRES_AFTER})
    if unknown:
        raise InvalidRequest(f"Unknown or not supported field '{unknown[0][:64]}'", param=unknown[0][:64])
    purpose = form.fields.get("purpose")
    if purpose is None:
        raise InvalidRequest("'purpose' is a required property", param="purpose")
    check_purpose(purpose)
    if not form.filename:
        raise InvalidRequest("'file' is a required property, and needs a name", param="file")
    return FileRequest(form.filename, purpose, _expires_after_s(form.fields))


def _expires_after_s(fields: Mapping[str, str]) -> int | None:
    """Return the seconds that the form's two fields `expires_after[…]` give, or None without them. Either both or
    neither must be given."""
    given = {name: _as_json(fields[key]) for key, name in _EXPIRES_AFTER.items() if key in fields}
    if not given:
        return None
    try:
        return ExpiresAfter.model_validate(given).seconds
    except ValidationError as error:
        first = error.errors()[0]
        param = f"expires_after[{first['loc'][0]}]"
        raise InvalidRequest(f"{param}: {first['msg']}", param=param, code="invalid_value") from error


def _as_json(text: str) -> str | int:
    """Return a form's text as a number if it consists of digits, else unchanged."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else text


class FileScan(BaseModel):
    """The scan of a file's rows, soon after the upload and before any job uses the file."""

    status: Literal["pending", "done", "failed"]
    format: str | None = None
    """The row format; null until it is known, or if the rows' keys match none."""
    rows: int | None = None
    container: str | None = None
    findings: list[Annotated[StoredJson, stored("Finding")]] = []
    """The first hundred problems. In files whose rows are not lines, `line` is the number of the row."""
    finding_counts: dict[str, int] = {}
    """The number of all problems, by code."""
    error: str | None = None
    """The reason why the file cannot be read; null if it can."""

    @classmethod
    def of(cls, file: File) -> Self | None:
        if file.scan_status is None:
            return None
        return cls.model_validate({"status": file.scan_status, **file.scan_report})


class FindingExample(BaseModel):
    line: int | None
    """Number of the line or, in files whose rows are not lines, of the row; null for a problem of the whole file."""
    message: str
    text: str | None = None
    """The beginning of the row (as JSON in files whose rows are not lines); null if it was not kept or cannot be
    read."""
    cut: bool = False
    """Whether the row continues after `text`."""


class FindingGroup(BaseModel):
    """All problems of one kind."""

    code: str
    severity: Literal["error", "warning"]
    count: int
    lines: list[int]
    """The first lines with this problem, in ascending order."""
    examples: list[FindingExample]
    """The first problems of this kind."""


class FileReport(BaseModel):
    """The outcome of a file's scan, with the problems by kind. The report has no token counts, because they depend on a
    base model: estimates count tokens, and previews show them."""

    object: Literal["file.report"] = "file.report"
    file_id: str
    status: Literal["pending", "done", "failed"]
    """pending: not checked yet; done: every row was checked; failed: the file cannot be read to its end."""
    error: str | None
    """The reason why the file cannot be read; null if it can."""
    container: str | None
    format: str | None
    rows: int | None
    errors: int
    """Number of problems for which a job would refuse the file."""
    warnings: int
    findings: list[FindingGroup]
    """Errors first, then the most frequent ones."""

    @classmethod
    def of(cls, report: Report) -> Self:
        counts = dict.fromkeys(("error", "warning"), 0)
        for group in report.groups:
            counts[group.severity] += group.count
        return cls(
            file_id=report.file.id,
            status=report.status,
            error=report.scan.get("error"),
            container=report.scan.get("container"),
            format=report.scan.get("format"),
            rows=report.scan.get("rows"),
            errors=counts["error"],
            warnings=counts["warning"],
            findings=[FindingGroup.model_validate(group, from_attributes=True) for group in report.groups],
        )


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
    """The scan of the file's rows; only for files with purpose `fine-tune`."""

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
