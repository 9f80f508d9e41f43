"""Ids in OpenAI's form: a prefix for the kind of object, and random letters that cannot be guessed."""

import re
import secrets
import string

_ALPHABET = string.ascii_letters + string.digits
CHECKPOINT_INFIX = ":ckpt-step-"
"""Separator between the model's id and the step in a checkpoint's id, as in OpenAI's ids."""


def random_letters(count: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(count))


def new_id(prefix: str) -> str:
    """Return a new id: the prefix and 24 random letters and digits (143 random bits)."""
    return prefix + random_letters(24)


def slug(text: str) -> str:
    """Return a user's suffix with hyphens in place of characters that a model id may not contain; "model" if nothing is
    left."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.") or "model"


def checkpoint_id(model_id: str, step: int) -> str:
    """Return the id under which a checkpoint of the model is downloaded and continued."""
    return f"{model_id}{CHECKPOINT_INFIX}{step}"


def is_model_or_checkpoint(name: str, model_id: str) -> bool:
    """Return whether `name` is the id of the model or of one of its checkpoints."""
    return name == model_id or name.startswith(model_id + CHECKPOINT_INFIX)
