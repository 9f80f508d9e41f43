"""Uploads in parts: the form that sends a part, and the objects in responses."""

from typing import Literal, Self

from pydantic import BaseModel

from api.errors import InvalidRequest
from api.infra.multipart import Form
from api.records.uploads import UploadPart
from api.schemas.files import FileObject
from api.services.uploads import UploadView


def require_no_fields(form: Form) -> None:
    """Raise InvalidRequest for any field beside the part's data."""
    if form.fields:
        name = min(form.fields)[:64]
        raise InvalidRequest(f"Unknown field '{name}': a part has 'data' only", param=name)


class UploadObject(BaseModel):
    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None
    """The file of a completed upload."""

    @classmethod
    def of(cls, view: UploadView) -> Self:
        upload = view.upload
        return cls(
            id=upload.id,
            bytes=upload.bytes,
            created_at=int(upload.created_at),
            expires_at=int(upload.expires_at),
            filename=upload.filename,
            purpose=upload.purpose,
            status=upload.status,
            file=FileObject.of(view.file) if view.file else None,
        )


class UploadPartObject(BaseModel):
    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str

    @classmethod
    def of(cls, part: UploadPart) -> Self:
        return cls(id=part.id, created_at=int(part.created_at), upload_id=part.upload_id)
