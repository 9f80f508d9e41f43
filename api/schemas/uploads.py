"""What goes out about uploads in parts."""

from typing import Literal, Self

from pydantic import BaseModel

from api.records.uploads import UploadPart
from api.schemas.files import FileObject
from api.services.uploads import UploadView


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
    """What it became when it was completed."""

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
