"""Sign-in to the dashboard: an API key is exchanged for a session, which ends when the key does, if not before."""

from dataclasses import dataclass

from api.context import Caller, Context
from api.errors import Unauthorized
from api.records import keys, sessions, sign_in_links

LINK_S = 600.0
"""Seconds for which a link signs a browser in, unless it is used before."""


class LinkSpent(Unauthorized):
    code = "sign_in_link_spent"
    param = "token"

    def __init__(self) -> None:
        super().__init__(
            "This link was used before, has expired, or was replaced by a newer one: run `attune open` for another"
        )


@dataclass(frozen=True)
class SignedIn:
    """The caller's key and its project, with the names that the dashboard shows."""

    project: str
    key_id: str
    key_name: str
    key_prefix: str
    scope: str


def sign_in(context: Context, plain_key: str) -> tuple[str, SignedIn]:
    """Create a session for a key. Return the session's token, and a description of the key and its project.

    Raise Unauthorized if the key is not valid.
    """
    with context.database.write() as session:
        key = keys.find_valid(session, plain_key)
        if key is None:
            raise Unauthorized(
                "This API key is unknown here, revoked or expired: check it, or use another", param="key"
            )
        token = sessions.create(session, key.id, context.settings.session_s)
    return token, _describe(context, key.id)


def create_link(context: Context, key_id: str) -> tuple[str, float]:
    """Create a link that signs one browser in, once, with the key. Return its path, and the time at which it expires.

    It replaces an earlier link of the key. The token is in the fragment, which browsers send to no server and in no
    `Referer`, so no log and no preview of the link has it.
    """
    with context.database.write() as session:
        token, expires_at = sign_in_links.create(session, key_id, LINK_S)
    return f"/sign-in#token={token}", expires_at


def describe_link(context: Context, token: str) -> SignedIn:
    """Return a description of the key that a link signs in with, and of its project. The link remains valid.

    Raise LinkSpent as `sign_in_by_link` does.
    """
    with context.database.connect() as connection:
        key_id = sign_in_links.find(connection, token)
    if key_id is None:
        raise LinkSpent
    return _describe(context, key_id)


def sign_in_by_link(context: Context, token: str) -> tuple[str, SignedIn]:
    """Spend a link. Return the token of a new session, and a description of the key and its project.

    Raise LinkSpent if the link was used before, has expired or was replaced, or if its key is no longer valid.
    """
    with context.database.write() as session:
        key_id = sign_in_links.spend(session, token)
        session_token = sessions.create(session, key_id, context.settings.session_s) if key_id else None
    if key_id is None or session_token is None:
        raise LinkSpent
    return session_token, _describe(context, key_id)


def sign_out(context: Context, token: str) -> None:
    """End the session at once. A session that has already ended is no error."""
    with context.database.write() as session:
        sessions.end(session, token)


def describe(context: Context, caller: Caller) -> SignedIn:
    return _describe(context, caller.key_id)


def _describe(context: Context, key_id: str) -> SignedIn:
    with context.database.connect() as connection:
        key, name, prefix, scope, project = sessions.key_with_project(connection, key_id)
    return SignedIn(project, key, name, prefix, scope)
