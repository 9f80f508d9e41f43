"""API keys: the operator manages the keys of all projects, and a project its own keys. `attune up` writes a local
operator's key for the commands on this machine.
"""

import json
import time
from collections.abc import Sequence

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.context import Caller, Context
from api.errors import Forbidden, InvalidRequest, NotFound, Unauthorized
from api.infra.private_file import write_private_file
from api.records import Database, keys, projects
from api.records.keys import SCOPES, Key
from api.records.pages import Page

log = structlog.get_logger(__name__)

LOCAL_KEY = "local admin"
MAX_KEYS = 100
"""A project with this many live keys cannot create another key over HTTP."""


RECORD_S = 300.0
"""Minimum seconds between two recorded uses of a key."""


class NoSuchKey(NotFound):
    param = "key_id"

    def __init__(self, key_id: str) -> None:
        super().__init__(f"This project has no live key '{key_id[:64]}'")


def create(
    context: Context, *, project: str, name: str, scope: str, expires_in_s: float | None = None
) -> tuple[Key, str]:
    """Create a key, and its project if it does not exist. Return the key and its plain text, which is not stored."""
    with context.database.write() as session:
        key, plain = keys.create(
            session, projects.get_or_create(session, project).id, name=name, scope=scope, expires_in_s=expires_in_s
        )
        session.refresh(key)
    return key, plain


def create_own(context: Context, caller: Caller, *, name: str, scope: str, expires_in_s: int | None) -> tuple[Key, str]:
    """Create a key of the caller's project. Return the key and its plain text, which is not stored.

    Raise Forbidden if the new key could do more, or live longer, than the caller's.
    """
    _require_rights(caller, scope)
    with context.database.write() as session:
        own = keys.get_live(session, caller.project_id, caller.key_id)
        if own is None:
            raise Unauthorized("This key was revoked or has expired")
        _require_lifetime(session, own, expires_in_s)
        if keys.count_live(session, caller.project_id) >= MAX_KEYS:
            raise InvalidRequest(f"This project already has {MAX_KEYS} live keys: revoke one that is not used")
        key, plain = keys.create(session, caller.project_id, name=name, scope=scope, expires_in_s=expires_in_s)
        session.refresh(key)
    return key, plain


def _require_rights(caller: Caller, scope: str) -> None:
    if SCOPES.index(scope) > SCOPES.index(caller.scope):
        raise Forbidden(f"A key of scope '{caller.scope}' cannot create or revoke a key of the higher scope '{scope}'")


def _require_lifetime(session: Session, own: Key, expires_in_s: int | None) -> None:
    left_s = keys.remaining_s(session, own)
    if left_s is not None and (expires_in_s is None or expires_in_s > left_s):
        raise Forbidden(
            f"This key expires in {left_s} s, and a key that it creates must not live longer: set expires_in_seconds "
            f"to {left_s} or less",
            param="expires_in_seconds",
        )


def page_own(context: Context, caller: Caller, *, after: str | None, limit: int) -> Page[Key]:
    with context.database.read() as session:
        return keys.page(session, caller.project_id, after=after, limit=limit)


def revoke_own(context: Context, caller: Caller, key_id: str) -> None:
    """Revoke a key of the caller's project. Raise NoSuchKey, and Forbidden if the key has a higher scope than the
    caller's."""
    with context.database.write() as session:
        key = keys.get_live(session, caller.project_id, key_id)
        if key is None:
            raise NoSuchKey(key_id)
        _require_rights(caller, key.scope)
        keys.revoke(session, key_id)
    renew_local(context)


def listed(context: Context) -> Sequence[tuple[Key, str]]:
    with context.database.read() as session:
        return keys.listed(session)


def revoke(context: Context, key_id: str) -> bool:
    """Revoke a key. Return whether it was the local key, which is then replaced. Raise NotFound if no live key has this
    id."""
    with context.database.write() as session:
        if not keys.revoke(session, key_id):
            raise NotFound(f"There is no live key '{key_id[:64]}': `attune keys list` lists the keys")
    return renew_local(context)


def renew_local(context: Context) -> bool:
    """If credentials.json holds a local key that was revoked, replace the key. Return whether it was replaced.

    So revoking the local key rotates it, and the commands on this machine keep working.
    """
    try:
        base_url = str(json.loads(context.settings.credentials_file.read_text())["base_url"])
    except (OSError, ValueError, KeyError):
        return False
    return ensure_local(context, base_url) is not None


def ensure_local(context: Context, base_url: str) -> str | None:
    """Write credentials.json with a valid local key. Return its plain text if it is new, else None.

    The file is read and written in the transaction: of two processes, the second finds the key of the first.
    """
    path = context.settings.credentials_file
    with context.database.write() as session:
        project = projects.get_or_create(session, projects.DEFAULT_PROJECT)
        projects.lock(session, project.id)
        try:
            written = path.read_bytes()
            plain = str(json.loads(written)["api_key"])
        except (OSError, ValueError, KeyError):
            written, plain = b"", ""
        found = keys.find_valid(session, plain) if plain else None
        known = None if found is None else keys.get_live(session, found.project_id, found.id)
        # A release without operators' keys made an admin's. It keeps its scope, because it may have been handed out.
        is_older = known is not None and known.name == LOCAL_KEY and known.scope == "admin"
        is_new = known is None or is_older
        if is_new:
            if not is_older:
                keys.revoke_named(session, project.id, LOCAL_KEY)
            _, plain = keys.create(session, project.id, name=LOCAL_KEY, scope="operator")
        content = json.dumps({"base_url": base_url, "api_key": plain}).encode()
        if content != written:
            write_private_file(path, content)
    return plain if is_new else None


class LastUses:
    """Records when keys were last used, at most once in RECORD_S seconds for a key: a write for each request would cost
    more than most requests."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tried_at: dict[str, float] = {}

    def is_due(self, key_id: str, idle_s: float | None) -> bool:
        """Return whether a use should be recorded now. `idle_s`: seconds since the last recorded use of the key."""
        now = time.monotonic()
        if (idle_s is not None and idle_s < RECORD_S) or now - self._tried_at.get(key_id, -RECORD_S) < RECORD_S:
            return False
        self._tried_at[key_id] = now
        return True

    def record(self, key_id: str) -> None:
        """Record a use now. If the database cannot be written, nothing is recorded."""
        try:
            with self._database.write() as session:
                keys.record_use(session, key_id)
        except SQLAlchemyError as error:
            log.info("key_use_not_recorded", key_id=key_id, error=type(error).__name__)
