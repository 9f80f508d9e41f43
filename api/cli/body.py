"""The body of `POST /v1/fine_tuning/jobs` from the options of `attune jobs create`, `estimate` and `preview`.

Only the given options are sent. The server adds the defaults and checks limits and combinations.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from api.cli.client import Document, open_input
from api.cli.errors import CommandError, ExitCode


def read_body(path: Path | None) -> Document:
    """Return the JSON object in the file, or on standard input for `-`; an empty object for None."""
    if path is None:
        return {}
    if str(path) == "-":
        text = sys.stdin.buffer.read()
    else:
        with open_input(path) as file:
            text = file.read()
    try:
        body = json.loads(text)
    except ValueError as error:
        raise CommandError(ExitCode.REFUSED, f"{path} is not JSON: {error}.") from None
    if not isinstance(body, dict):
        raise CommandError(ExitCode.REFUSED, f"{path} does not hold a JSON object.")
    return body


def job_body(
    body_file: Path | None,
    fields: Mapping[str, object],
    hyperparameters: Mapping[str, object],
    assignments: Sequence[str] | None,
) -> Document:
    """Return the body in `body_file`, overridden by `fields`, then by each `--set`, then by `hyperparameters`.

    The keys of `fields` are dotted names, and those of `hyperparameters` are the names of the method's hyperparameters.
    A value of None means that the option is not given.
    """
    body = read_body(body_file)
    change_body(body, fields, hyperparameters, assignments)
    return body


def change_body(
    body: Document,
    fields: Mapping[str, object],
    hyperparameters: Mapping[str, object],
    assignments: Sequence[str] | None,
) -> None:
    set_fields(body, fields)
    for assignment in assignments or []:
        apply_assignment(body, assignment)
    set_hyperparameters(body, hyperparameters)  # after the assignments, because they may set the method
    set_default_types(body)


def require_model_and_file(body: Document, training_file: str | None) -> None:
    """Raise CommandError if the body has no model or no training file, before any file is uploaded."""
    if "model" not in body:
        raise CommandError(ExitCode.REFUSED, "no base model: give --model; `attune catalog` lists the base models.")
    if training_file is None and "training_file" not in body:
        raise CommandError(ExitCode.REFUSED, "no training file: give a path or the id of an uploaded file.")


def set_field(body: Document, dotted: str, value: object) -> None:
    """Set `training.max_length` as `body["training"]["max_length"]`, creating missing objects."""
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = body.get(parent)
        if inner is None:
            inner = body[parent] = {}
        if not isinstance(inner, dict):
            raise CommandError(
                ExitCode.REFUSED,
                f"cannot set {dotted}: {parent} is already set to a plain value. "
                "Remove that value, or make it an object.",
            )
        body = inner
    body[last] = value


def set_fields(body: Document, fields: Mapping[str, object]) -> None:
    for dotted, value in fields.items():
        if value is not None:
            set_field(body, dotted, value)


def set_hyperparameters(body: Document, values: Mapping[str, object]) -> None:
    """Set hyperparameters in `method.TYPE.hyperparameters`, where TYPE is the type of the body's method."""
    method = body.get("method")
    kind = _method_type(method) if isinstance(method, dict) else "supervised"
    set_fields(body, {f"method.{kind}.hyperparameters.{name}": value for name, value in values.items()})


def _method_type(method: Mapping[str, object]) -> object:
    """Return the method's type. Without `type`, it is the name of the method's only object, such as `dpo` after
    `--set method.dpo.loss=ipo`, or else supervised."""
    names = [name for name, options in method.items() if isinstance(options, dict)]
    return method.get("type", names[0] if len(names) == 1 else "supervised")


def set_default_types(body: Document) -> None:
    """Set the type of a technique or method that has options but no type."""
    if isinstance(body.get("technique"), dict):
        body["technique"].setdefault("type", "lora")
    if isinstance(body.get("method"), dict):
        body["method"].setdefault("type", _method_type(body["method"]))


def apply_assignment(body: Document, assignment: str) -> None:
    """Apply one `--set`, such as `training.max_length=512`."""
    dotted, equals, text = assignment.partition("=")
    if not equals or not all(dotted.split(".")):
        raise CommandError(ExitCode.REFUSED, f"--set {assignment}: write it as name=value or group.name=value.")
    set_field(body, dotted, parse_value(text))


def parse_value(text: str | None) -> object:
    """Return the text parsed as JSON, or the text itself if it is not JSON (`auto`)."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text
