"""Ids as OpenAI writes them: a prefix that tells the kind, and letters that cannot be guessed."""

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
    """What of a user's suffix may stand in a model id."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.") or "model"
