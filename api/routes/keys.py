from typing import Annotated

from fastapi import APIRouter, Query

from api.http.deps import After, Ctx, Who
from api.http.fair_route import FairRoute
from api.schemas.common import Deleted
from api.schemas.keys import KeyList, KeyRequest, KeyWithSecret
from api.services import keys

router = APIRouter(prefix="/keys", tags=["keys"], route_class=FairRoute)


@router.post("")
def create_key(body: KeyRequest, context: Ctx, caller: Who) -> KeyWithSecret:
    """Create a key of this project with at most the rights of the key that sends the request.

    The response has the key, which is not shown again. An Idempotency-Key is refused, because the response must not be
    stored.
    """
    key, plain = keys.create_own(
        context, caller, name=body.name, scope=body.scope, expires_in_s=body.expires_in_seconds
    )
    return KeyWithSecret.with_value(key, caller.key_id, plain)


@router.get("")
def list_keys(
    context: Ctx, caller: Who, after: After = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> KeyList:
    """List this project's keys, newest first, including revoked and expired ones."""
    page = keys.page_own(context, caller, after=after, limit=limit)
    return KeyList.of(page.data, page.has_more, caller.key_id)


@router.delete("/{key_id}")
def revoke_key(key_id: str, context: Ctx, caller: Who) -> Deleted:
    """Revoke a key that has at most the rights of the key that sends the request. It stops working immediately."""
    keys.revoke_own(context, caller, key_id)
    return Deleted(id=key_id, object="api_key")
