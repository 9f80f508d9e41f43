from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request

from api.http.deps import After, Ctx, Who
from api.http.downloads import PARTIAL, Download, IfRangeHeader, RangeHeader, requested_bytes
from api.http.fair_route import FairRoute
from api.infra.multipart import read_form
from api.schemas.common import Deleted, errors
from api.schemas.files import FileList, FileObject, FileReport, file_request
from api.services import file_reports, files

router = APIRouter(prefix="/files", tags=["files"], route_class=FairRoute)

UPLOAD_BODY: dict[str, object] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(files.PURPOSES)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
                    },
                }
            }
        },
    }
}


@router.post("", responses=errors(507), openapi_extra=UPLOAD_BODY)
async def create_file(request: Request, context: Ctx, caller: Who) -> FileObject:
    """Upload a file. With `expires_after` it is deleted after that many seconds, but not before the jobs that need it
    have ended.
    """

    async def receive(consume: files.Consume) -> files.FileRequest:
        return file_request(await read_form(request, file_field="file", consume=consume))

    return FileObject.of(await files.create(context, caller, receive))


@router.get("")
def list_files(
    context: Ctx,
    caller: Who,
    purpose: str | None = None,
    sha256: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$", description="Hash of the content.")] = None,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
) -> FileList:
    """List files. With `sha256`, list only files with that content: a file that is found need not be uploaded again."""
    newest_first = order == "desc"
    page = files.page(
        context, caller, purpose=purpose, sha256=sha256, after=after, limit=limit, newest_first=newest_first
    )
    return FileList.of(page.data, page.has_more)


@router.get("/{file_id}")
def retrieve_file(file_id: str, context: Ctx, caller: Who) -> FileObject:
    return FileObject.of(files.get(context, caller, file_id))


@router.get("/{file_id}/report")
def show_file_report(file_id: str, context: Ctx, caller: Who) -> FileReport:
    """Show what is wrong with a file's rows: the problems by kind, each with its first lines and rows."""
    return FileReport.of(file_reports.report(context, caller, file_id))


@router.get("/{file_id}/content", response_class=Download, responses=PARTIAL)
def retrieve_file_content(
    file_id: str, context: Ctx, caller: Who, wanted: RangeHeader = None, condition: IfRangeHeader = None
) -> Download:
    """Download a file, or only the bytes in a `Range` header, for example to resume a download. A header with several
    ranges is refused."""
    file = files.get(context, caller, file_id)
    part = requested_bytes(wanted, condition, file.bytes)
    return Download(files.content(context, caller, file, part), filename=file.filename, size=file.bytes, part=part)


@router.delete("/{file_id}")
def delete_file(file_id: str, context: Ctx, caller: Who) -> Deleted:
    """Delete a file, unless a job that has not ended needs it."""
    files.delete(context, caller, file_id)
    return Deleted(id=file_id, object="file")
