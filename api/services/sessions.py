"""Sign-in to the dashboard: an API key is exchanged for a session, which ends when the key does, if not before."""

from dataclasses import dataclass

from api.context import Caller, Context
from api.errors import Unauthorized
from api.records import keys, sessions


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
