"""The operator's management of API keys, and the local admin key that `attune up` writes for this machine."""

import json
import os
from collections.abc import Sequence

from api.context import Context
from api.errors import NotFound
from api.records import keys, projects
from api.records.keys import Key

LOCAL_KEY = "local admin"


def create(
    context: Context, *, project: str, name: str, scope: str, expires_in_s: float | None = None
) -> tuple[Key, str]:
    """Create a key, and its project if there is none. Return the key and its plain text, which is not stored."""
    with context.database.write() as session:
        key, plain = keys.create(
            session, projects.get_or_create(session, project), name=name, scope=scope, expires_in_s=expires_in_s
        )
        session.refresh(key)
    return key, plain


def listed(context: Context) -> Sequence[tuple[Key, str]]:
    with context.database.read() as session:
        return keys.listed(session)


def revoke(context: Context, key_id: str) -> None:
    with context.database.write() as session:
        if not keys.revoke(session, key_id):
            raise NotFound(f"There is no live key '{key_id[:64]}': `attune keys list` lists the keys")


def ensure_local(context: Context, base_url: str) -> str | None:
    """Write credentials.json with a valid local key. Return its plain text if it is new, else None."""
    path = context.settings.credentials_file
    try:
        plain = str(json.loads(path.read_text())["api_key"])
    except (OSError, ValueError, KeyError):
        plain = ""
    with context.database.write() as session:
        known = keys.find_valid(session, plain) if plain else None
        if known is None:
            project = projects.get_or_create(session, projects.DEFAULT_PROJECT)
            keys.revoke_named(session, project.id, LOCAL_KEY)
            _, plain = keys.create(session, project, name=LOCAL_KEY, scope="admin")
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"base_url": base_url, "api_key": plain}, file)
    partial.replace(path)
    return None if known is not None else plain
