"""Sessions of the dashboard."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from api.services.sessions import SignedIn


class SignIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: Annotated[str, Field(min_length=1, max_length=256)]


class LinkToken(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: Annotated[str, Field(min_length=1, max_length=256)]


class LinkObject(BaseModel):
    object: Literal["session.link"] = "session.link"
    path: str
    """Path on this server, with the token in its fragment."""
    expires_at: int


class SessionKey(BaseModel):
    id: str
    name: str
    prefix: str
    """First characters of the key."""


class SessionObject(BaseModel):
    object: Literal["session"] = "session"
    project: str
    key: SessionKey
    scope: str
    """Rights of the key: operator, admin, write or read."""

    @classmethod
    def of(cls, signed_in: SignedIn) -> Self:
        key = SessionKey(id=signed_in.key_id, name=signed_in.key_name, prefix=signed_in.key_prefix)
        return cls(project=signed_in.project, key=key, scope=signed_in.scope)
