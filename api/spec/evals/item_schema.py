"""The JSON Schema of an eval's items. Validators never fetch a schema from the network, and match patterns in linear
time."""

import jsonschema_rs
from jsonschema_rs import RegexOptions, ValidationError, Validator

from api.spec.fields import JsonObject
from api.spec.formats.base import truncate

PATTERN_BYTES = 1 << 20
"""Maximum memory of one compiled pattern, in bytes."""
MAX_MESSAGE = 300
"""Maximum length of an error message, in characters."""


def validator(schema: JsonObject) -> Validator:
    """Return a validator of the schema. Raises ValueError if it is not a JSON Schema."""
    options = RegexOptions(size_limit=PATTERN_BYTES, dfa_size_limit=PATTERN_BYTES)
    try:
        return jsonschema_rs.validator_for(schema, offline=True, pattern_options=options)
    except ValidationError as error:
        raise ValueError(f"not a JSON Schema: {_sentence(error.message, error.instance_path)}") from None


def problem(valid: Validator, item: object) -> str | None:
    """Return what is wrong with the item, or None if it is valid."""
    error = next(valid.iter_errors(item), None)
    return None if error is None else _sentence(error.message, ["item", *error.instance_path])


def _sentence(message: str, path: list[str | int]) -> str:
    where = ".".join(str(step) for step in path)
    return truncate(f"{where}: {message}" if where else message, MAX_MESSAGE)
