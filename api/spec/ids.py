"""Ids in OpenAI's form: a prefix for the kind of object, and random letters that cannot be guessed."""

import re
import secrets
import string

_ALPHABET = string.ascii_letters + string.digits


def random_letters(count: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(count))


def new_id(prefix: str) -> str:
    """`new_id("ftjob-")` → "ftjob-" and 24 letters: 143 random bits."""
    return prefix + random_letters(24)


def slug(text: str) -> str:
    """Return a user's suffix with only characters that a model id may contain."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.") or "model"
