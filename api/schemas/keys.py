"""API keys of a project."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, StringConstraints

from api.records.keys import Key
from api.schemas.common import ends, seconds
from api.spec.fields import NulFreeModel

Scope = Literal["read", "write", "admin", "operator"]


class KeyRequest(NulFreeModel):
    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    """A note on the key's use."""
    scope: Scope = "write"
    """read: GET requests, previews and estimates; write: all but checkpoint permissions; admin: everything in the
    project; operator: also the health and the usage of the whole service. At most the scope of the key that sends the
    request."""
    expires_in_seconds: Annotated[int, Field(ge=60, le=10 * 365 * 86_400)] | None = None
    """Seconds until the key expires; null: never. At most the remaining life of the key that sends the request."""


class KeyObject(BaseModel):
    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    scope: Scope
    redacted_value: str
    """The key's first characters."""
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None
    """Approximate time of the key's last use, which may be up to 5 minutes later. Null: no use of the key was recorded.
    """
    current: bool
    """Whether the request was sent with this key."""

    @classmethod
    def of(cls, key: Key, current_id: str) -> Self:
        return cls(**_key(key, current_id))


class KeyWithSecret(KeyObject):
    value: str
    """The key itself, shown only once. Only its hash is stored."""

    @classmethod
    def with_value(cls, key: Key, current_id: str, value: str) -> Self:
        return cls(**_key(key, current_id), value=value)


def _key(key: Key, current_id: str) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "scope": key.scope,
        "redacted_value": f"{key.prefix}…",
        "created_at": int(key.created_at),
        "expires_at": seconds(key.expires_at),
        "revoked_at": seconds(key.revoked_at),
        "last_used_at": seconds(key.last_used_at),
        "current": key.id == current_id,
    }


class KeyList(BaseModel):
    object: Literal["list"] = "list"
    data: list[KeyObject]
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, rows: Sequence[Key], has_more: bool, current_id: str) -> Self:
        return cls(data=[KeyObject.of(row, current_id) for row in rows], has_more=has_more, **ends(rows))
