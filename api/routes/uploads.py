from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field, StringConstraints

from api.http.deps import Ctx, Who
from api.http.fair_route import FairRoute
from api.infra.multipart import read_form
from api.schemas.common import errors
from api.schemas.uploads import UploadObject, UploadPartObject, require_no_fields
from api.services import upload_parts, uploads
from api.services.files import Consume, ExpiresAfter
from api.spec.fields import NulFreeModel

router = APIRouter(prefix="/uploads", tags=["uploads"], route_class=FairRoute)

PART_BODY: dict[str, object] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


class Announcement(NulFreeModel):
    bytes: Annotated[int, Field(ge=1, lt=2**63)]
    """The size of the whole file."""
    filename: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    mime_type: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[\x20-\x7e]+$")]
    purpose: str
    expires_after: ExpiresAfter | None = None
    """When the completed file expires."""


class Completion(NulFreeModel):
    part_ids: Annotated[list[str], Field(min_length=1, max_length=uploads.MAX_PARTS)]
    """The ids of the parts, in their order in the file."""
    md5: str | None = None
    """The hexadecimal MD5 digest of the whole file."""


@router.post("")
def create_upload(announced: Announcement, context: Ctx, caller: Who) -> UploadObject:
    """Announce a file that will be sent in parts within an hour."""
    return UploadObject.of(
        uploads.create(
            context,
            caller,
            filename=announced.filename,
            purpose=announced.purpose,
            mime_type=announced.mime_type,
            bytes_total=announced.bytes,
            expires_after=announced.expires_after,
        )
    )


@router.get("/{upload_id}")
def retrieve_upload(upload_id: str, context: Ctx, caller: Who) -> UploadObject:
    """Return an upload, with its file if it is completed. OpenAI has no such call."""
    return UploadObject.of(uploads.get(context, caller, upload_id))


@router.post("/{upload_id}/parts", responses=errors(507), openapi_extra=PART_BODY)
async def create_upload_part(upload_id: str, request: Request, context: Ctx, caller: Who) -> UploadPartObject:
    """Send a part of at most 64 MiB. Parts may be sent in any order and concurrently. An acknowledged part is kept
    until the upload ends.
    """

    async def receive(consume: Consume) -> None:
        require_no_fields(await read_form(request, file_field="data", consume=consume))

    return UploadPartObject.of(await upload_parts.add(context, caller, upload_id, receive))


@router.post("/{upload_id}/complete", responses=errors(507))
async def complete_upload(upload_id: str, completion: Completion, context: Ctx, caller: Who) -> UploadObject:
    """Join the parts into a file. If the list of parts or the md5 is wrong, the upload stays pending for another try.

    Repeating the same completion returns the same file.
    """
    return UploadObject.of(await uploads.complete(context, caller, upload_id, completion.part_ids, completion.md5))


@router.post("/{upload_id}/cancel")
def cancel_upload(upload_id: str, context: Ctx, caller: Who) -> UploadObject:
    """Cancel a pending upload and delete its parts."""
    return UploadObject.of(uploads.cancel(context, caller, upload_id))
